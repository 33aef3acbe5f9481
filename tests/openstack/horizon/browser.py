"""Somebody in front of a browser: Debian's Chromium, headless, at the dashboard of the cloud."""

from __future__ import annotations

import dataclasses
import os
import pathlib
import time
from collections.abc import Callable
from typing import TypeVar

from labkit.cloud import horizon, settings
from selenium import webdriver
from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

# Two emulating processors, and a cloud and two guests beside the browser.
LIMIT_S = 90.0
POLL_S = 0.2
SIZE = (1500, 1150)
T = TypeVar("T")


def start(downloads: pathlib.Path) -> webdriver.Chrome:
    """A browser with a profile of its own; in the network of the thread that asks for it."""
    options = webdriver.ChromeOptions()
    options.binary_location = "/usr/bin/chromium"
    for argument in (
        "--headless=new",
        "--no-sandbox",  # it runs as root, in a namespace with nothing but the lab
        "--disable-dev-shm-usage",
        "--disable-gpu",
        "--hide-scrollbars",
        "--lang=en",
        f"--window-size={SIZE[0]},{SIZE[1]}",
        f"--user-data-dir={downloads.parent / 'profile'}",
    ):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(downloads)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService("/usr/bin/chromedriver")
    # A Debian package is asked for by its place: nothing is looked for or fetched.
    os.environ["SE_OFFLINE"] = "true"
    driver = webdriver.Chrome(options=options, service=service)
    driver.set_page_load_timeout(LIMIT_S)
    return driver


@dataclasses.dataclass
class Person:
    """A tenant who has logged in.

    :ivar shots: where pictures of the pages are put, if anywhere
    """

    driver: webdriver.Chrome
    downloads: pathlib.Path
    shots: pathlib.Path | None = None

    # -- where --------------------------------------------------------------------------------------------------------

    def log_in(self, user: str) -> None:
        """With name and password; nobody else stays logged in."""
        self.driver.get(horizon.url() + "auth/login/")
        self.driver.delete_all_cookies()
        self.driver.get(horizon.url() + "auth/login/")
        self.field("id_username").send_keys(user)
        self.field("id_password").send_keys(settings.PASSWORD)
        self.see("#loginBtn").click()
        self.until(lambda: "/auth/login" not in self.driver.current_url, f"{user} is in")

    def go(self, path: str) -> None:
        """Open a page of the dashboard."""
        self.driver.get(horizon.url() + path.lstrip("/"))

    def picture(self, name: str) -> None:
        """Take one for the manual, if pictures are wanted."""
        if self.shots is not None:
            self.driver.save_screenshot(str(self.shots / f"dashboard-{name}.png"))

    # -- what is there ------------------------------------------------------------------------------------------------

    def see(self, selector: str) -> WebElement:
        """Wait for something that can be seen; CSS."""

        def found() -> WebElement | None:
            return next((one for one in self.all(selector) if one.is_displayed()), None)

        shown = self.until(found, selector)
        assert shown is not None
        return shown

    def all(self, selector: str) -> list[WebElement]:
        """Everything that fits now, seen or not."""
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def field(self, identifier: str) -> WebElement:
        """A field of a form, by its id."""
        return self.see(f"#{identifier}")

    def text(self, selector: str = "body") -> str:
        """What is to be read there."""
        return self.see(selector).text

    def row(self, table: str, name: str) -> WebElement | None:
        """The row of a table whose name is so, if there is one now."""
        found = [one for one in self.all(f"#{table} tbody tr") if self._name(one) == name]
        return found[0] if found else None

    def _name(self, row: WebElement) -> str:
        return row.get_attribute("data-display") or ""

    def actions(self, table: str, name: str) -> list[str]:
        """What the row's menu offers."""
        row = self.row(table, name)
        assert row is not None, f"{table} has no row {name}"
        cells = row.find_elements(By.CSS_SELECTOR, ".actions_column a, .actions_column button")
        said = [(cell.get_attribute("textContent") or "").strip() for cell in cells]
        return [one for one in said if one]

    def choose(self, table: str, name: str, action: str) -> None:
        """Take an action of the row's menu, which opens if it has to; again if Horizon draws the row anew meanwhile."""
        self.until(lambda: self._chosen(table, name, action), f"{action} of {name}")

    def _chosen(self, table: str, name: str, action: str) -> bool:
        row = self.row(table, name)
        assert row is not None, f"{table} has no row {name}"
        for one in row.find_elements(By.CSS_SELECTOR, ".actions_column .dropdown-toggle"):
            one.click()
        for cell in row.find_elements(By.CSS_SELECTOR, ".actions_column a, .actions_column button"):
            if (cell.get_attribute("textContent") or "").strip() == action:
                cell.click()
                return True
        raise AssertionError(f"row {name} offers {self.actions(table, name)}, not {action}")

    # -- doing --------------------------------------------------------------------------------------------------------

    def fill(self, identifier: str, value: str) -> None:
        """Put a value in the place of what is in a field."""
        field = self.field(identifier)
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(value)

    def select(self, identifier: str, text: str) -> None:
        """Choose what reads so from a list, which Horizon draws as a menu of its own over the browser's."""
        menu = self.driver.find_element(By.ID, identifier).find_element(
            By.XPATH, "ancestor::*[contains(@class, 'themable-select')]"
        )
        menu.find_element(By.CSS_SELECTOR, ".dropdown-toggle").click()
        for line in menu.find_elements(By.CSS_SELECTOR, ".dropdown-menu a"):
            if line.text.strip() == text:
                line.click()
                return
        raise AssertionError(f"{identifier} does not offer {text}")

    def tick(self, name: str, value: str) -> None:
        """Choose one of several, by its words: Horizon draws the button itself and hides the browser's."""
        (button,) = self.all(f"#trusted_clone_form input[name={name}][value={value}]")
        self.see(f"#trusted_clone_form label[for={button.get_attribute('id')}]").click()

    def submit(self) -> None:
        """Send the form of the dialog."""
        self.see("#trusted_clone_form input[type=submit]").click()

    def errors(self) -> dict[str, str]:
        """What the form complains about, by the field that stands above it; ``form`` for the whole."""
        found = {}
        for group in self.all("#trusted_clone_form .form-group.has-error"):
            field = group.find_element(By.CSS_SELECTOR, "input, select").get_attribute("name")
            found[str(field)] = group.find_element(By.CSS_SELECTOR, ".help-block").text
        for alert in self.all("#trusted_clone_form .alert-danger"):
            found["form"] = alert.text
        return found

    def complaints(self) -> list[str]:
        """What the browser has complained about: scripts that failed, files that are not there. Of TLS the lab has none."""
        return [
            str(one["message"])
            for one in self.driver.get_log("browser")
            if one["level"] == "SEVERE" and "served over HTTPS" not in one["message"]
        ]

    def until(self, reached: Callable[[], T], what: str, limit_s: float = LIMIT_S) -> T:
        """Wait until something is so, in a page that changes meanwhile."""
        deadline = time.monotonic() + limit_s
        while True:
            try:
                found = reached()
            except (NoSuchElementException, StaleElementReferenceException):
                found = None  # type: ignore[assignment]
            if found:
                return found
            assert time.monotonic() < deadline, (
                f"after {limit_s:g} s not there: {what}\n{self._page()}"
            )
            time.sleep(POLL_S)

    def _page(self) -> str:
        body = self.driver.find_element(By.CSS_SELECTOR, "body").text
        return f"{self.driver.current_url}: {body[:3000]}"
