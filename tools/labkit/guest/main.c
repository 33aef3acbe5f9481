/* Process 1: mounts, modules, options, then every part's threads.
 *
 * READY: once, after the memory was filled: pages=, disks=, nics=, tpm=, genid=.
 */
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/syscall.h>
#include <unistd.h>

struct options options = { .pages = 0, .page_rate = 2000, .disk_rate = 50, .disk_blocks = 4096, .rest = 4 };

static unsigned long option(const char *line, const char *name, unsigned long otherwise)
{
    for (const char *found = strstr(line, name); found; found = strstr(found + 1, name))
        if (found == line || found[-1] == ' ')
            return strtoul(found + strlen(name), NULL, 0);
    return otherwise;
}

static void read_options(void)
{
    char line[2048];
    int count = read_file("/proc/cmdline", line, sizeof line - 1);

    line[count > 0 ? count : 0] = '\0';
    options.pages = option(line, "np=", options.pages);
    options.page_rate = (unsigned)option(line, "rate=", options.page_rate);
    options.disk_rate = (unsigned)option(line, "diskrate=", options.disk_rate);
    options.disk_blocks = (unsigned)option(line, "diskblocks=", options.disk_blocks);
    options.rest = (unsigned)option(line, "rest=", options.rest);
    options.disk_rest = (unsigned)option(line, "diskrest=", options.disk_rest);
    options.boot_mib = (unsigned)option(line, "bootmib=", options.boot_mib);
    options.dhcp = (int)option(line, "dhcp=", 0);
    options.touch = (int)option(line, "touch=", 0);
    if (options.disk_rate == 0)
        options.disk_rate = 1;
}

/* /modules/list names them in the order in which they need each other, each with its parameters. */
static void load_modules(void)
{
    static char list[4096];
    int count = read_file("/modules/list", list, sizeof list - 1);

    list[count > 0 ? count : 0] = '\0';
    for (char *name = strtok(list, "\n"); name; name = strtok(NULL, "\n")) {
        char path[128], *parameters = strchr(name, ' ');
        if (parameters)
            *parameters++ = '\0';
        snprintf(path, sizeof path, "/modules/%s", name);
        int file = open(path, O_RDONLY | O_CLOEXEC);
        /* ENODEV: a driver of another hypervisor's devices. */
        if (file < 0 || (syscall(SYS_finit_module, file, parameters ? parameters : "", 0) != 0 && errno != ENODEV))
            say("ERROR what=module name=%s errno=%d", name, errno);
        if (file >= 0)
            close(file);
    }
}

/* The kernel's own, which its command line names: of several the last. A guest of Xen's can have two. */
static void take_console(void)
{
    char names[64], path[80];
    int count = read_file("/sys/class/tty/console/active", names, sizeof names - 1);

    names[count > 0 ? count : 0] = '\0';
    names[strcspn(names, "\n")] = '\0';
    char *last = strrchr(names, ' ');
    snprintf(path, sizeof path, "/dev/%s", last ? last + 1 : names);
    int console = open(path, O_RDWR);

    for (int file = 0; console >= 0 && file < 3; file++)
        dup2(console, file);
}

/* Disks and network interfaces appear a moment after their drivers. */
static void wait_for_devices(void)
{
    sleep_s(0.3);
}

/* A second, while interfaces that are changed are found at once. */
static void wait_a_second(void)
{
    for (int part = 0; part < 5; part++) {
        nic_follow();
        sleep_s(0.2);
    }
}

int main(void)
{
    mount("proc", "/proc", "proc", 0, NULL);
    mount("sysfs", "/sys", "sysfs", 0, NULL);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL);
    take_console();
    read_options();
    load_modules();
    wait_for_devices();

    uint64_t pages = memory_start();
    unsigned disks = disk_start();
    unsigned nics = nic_report(0);
    int tpm = tpm_start();
    int genid = genid_report(1);
    say("READY up=%.2f pages=%lu disks=%u nics=%u tpm=%d genid=%d", now_s(), pages, disks, nics, tpm, genid);
    for (int sequence = 1;; sequence++) {
        wait_a_second();
        nic_report(sequence);
        genid_report(sequence % 5 == 0);
    }
}
