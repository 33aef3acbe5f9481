/* Memory that is changed and checked all the time.
 *
 * TICK: once a second. pages= under check, pass= how often all were checked, checked= pages in this second, bad= wrong pages since
 * boot, writes= pages changed since boot, maxgap_ms= the longest the heartbeat was late in this second.
 */
#include "guest.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sysinfo.h>
#include <unistd.h>
#include <fcntl.h>
#include <termios.h>

#define BEAT_S 0.02
#define MUTATIONS_A_SECOND 100 /* batches */
#define BAD_SAID 8             /* after that many the count tells enough */

static uint8_t *memory;
static uint64_t pages;
static uint32_t *version;      /* of each page */
static pthread_mutex_t page_lock = PTHREAD_MUTEX_INITIALIZER; /* page and version change together */
static uint64_t bad_pages, writes, passes, checked;
static double longest_gap;

static uint64_t *page(uint64_t index)
{
    return (uint64_t *)(memory + index * PAGE_BYTES);
}

static void *mutate(void *unused)
{
    uint64_t random = 88172645463325252ULL; /* any value but zero */

    (void)unused;
    for (;;) {
        for (unsigned i = 0; i < options.page_rate / MUTATIONS_A_SECOND; i++) {
            random = pattern_mix(random + 0x9e3779b97f4a7c15ULL);
            uint64_t index = random % pages;
            pthread_mutex_lock(&page_lock);
            pattern_fill(page(index), index, ++version[index]);
            writes++;
            pthread_mutex_unlock(&page_lock);
        }
        sleep_s(1.0 / MUTATIONS_A_SECOND);
    }
    return NULL;
}

static void check_page(uint64_t index)
{
    pthread_mutex_lock(&page_lock);
    int good = pattern_matches(page(index), index, version[index]);
    uint32_t expected = version[index];
    pthread_mutex_unlock(&page_lock);
    checked++;
    if (good)
        return;
    if (bad_pages++ < BAD_SAID)
        say("BADPAGE index=%lu version=%u first=%016lx", index, expected, *page(index));
}

/* Check without end, on a fifth of a processor unless told otherwise: guests and clones share the few that a lab has with everything that makes them. */
static void *verify(void *unused)
{
    (void)unused;
    for (;;) {
        double begin = now_s();
        for (uint64_t index = 0; index < pages; index++) {
            check_page(index);
            if (index % 256 == 255) {
                sleep_s(options.rest * (now_s() - begin));
                begin = now_s();
            }
        }
        passes++;
    }
    return NULL;
}

/* The second serial port, when there is one, gets a character each beat: the host sees there how long a pause was. */
static int open_beat_port(void)
{
    int port = open("/dev/ttyS1", O_WRONLY | O_NONBLOCK | O_NOCTTY);
    struct termios settings;

    if (port < 0)
        return -1;
    if (tcgetattr(port, &settings) != 0) {
        close(port);
        return -1;
    }
    cfmakeraw(&settings);
    cfsetspeed(&settings, B115200);
    tcsetattr(port, TCSANOW, &settings);
    return port;
}

static void *beat(void *unused)
{
    int port = open_beat_port();
    double before = now_s();

    (void)unused;
    for (;;) {
        sleep_s(BEAT_S);
        double at = now_s(), late = at - before - BEAT_S;
        if (late > longest_gap)
            longest_gap = late;
        before = at;
        if (port >= 0 && write(port, ".", 1) < 0)
            continue; /* full: the host reads no longer, and the next beat tries again */
    }
    return NULL;
}

static void *tick(void *unused)
{
    uint64_t last = 0;

    (void)unused;
    for (unsigned n = 0;; n++) {
        double gap = longest_gap * 1e3;
        longest_gap = 0;
        say("TICK n=%u up=%.2f pages=%lu pass=%lu checked=%lu bad=%lu writes=%lu maxgap_ms=%.1f", n, now_s(), pages, passes,
            checked - last, bad_pages, writes, gap);
        last = checked;
        sleep_s(1.0);
    }
    return NULL;
}

/* Nearly all that is free: with the last of it the kernel would end this process. */
static void touch_all(void)
{
    struct sysinfo found;

    if (sysinfo(&found) != 0)
        return;
    size_t size = (size_t)found.freeram / 100 * 97 * found.mem_unit;
    uint8_t *all = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (all == MAP_FAILED) {
        say("ERROR what=touch bytes=%zu", size);
        return;
    }
    for (size_t at = 0; at < size; at += PAGE_BYTES)
        all[at] = 1;
    munmap(all, size);
}

static uint64_t half_of_memory(void)
{
    return (uint64_t)sysconf(_SC_PHYS_PAGES) / 2;
}

uint64_t memory_start(void)
{
    if (options.touch)
        touch_all();
    pages = options.pages ? options.pages : half_of_memory();
    memory = mmap(NULL, pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    version = calloc(pages, sizeof *version);
    if (memory == MAP_FAILED || version == NULL) {
        say("ERROR what=memory pages=%lu", pages);
        abort();
    }
    for (uint64_t index = 0; index < pages; index++)
        pattern_fill(page(index), index, 0);
    start_thread(mutate, NULL);
    start_thread(verify, NULL);
    start_thread(beat, NULL);
    start_thread(tick, NULL);
    return pages;
}
