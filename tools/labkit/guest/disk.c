/* Disks that are written and checked against memory all the time.
 *
 * Which version of a block was written last is known in memory only: a clone whose disk is of another instant than its memory
 * finds blocks that are behind or ahead.
 *
 * DISKCHECK: for each disk after all its blocks were read. blocks= were ever written, bad= are not what memory says, untouched= were
 * never written, writes= since boot.
 */
#define _GNU_SOURCE /* O_DIRECT */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DISKS 4
#define ROUND_PAUSE_S 2.0
#define BAD_SAID 8

struct disk {
    char name[8];
    int file;
    uint64_t first;        /* block under check: those before it are boot files */
    uint64_t blocks;       /* under check */
    uint32_t *version;     /* of each block; 0: never written */
    uint64_t writes, bad;
    pthread_mutex_t lock;  /* a block and its version change together */
    uint8_t *written, *read; /* one block each, aligned for O_DIRECT */
};
static struct disk disks[DISKS];

/* So that no block of one disk looks like one of another, or like a page. */
static uint64_t identity(const struct disk *disk, uint64_t block)
{
    return ((uint64_t)(disk - disks + 1) << 48) | block;
}

static off_t offset(const struct disk *disk, uint64_t block)
{
    return (off_t)((disk->first + block) * PAGE_BYTES);
}

static void write_block(struct disk *disk, uint64_t block)
{
    pthread_mutex_lock(&disk->lock);
    uint32_t version = disk->version[block] + 1;
    pattern_fill((uint64_t *)disk->written, identity(disk, block), version);
    if (pwrite(disk->file, disk->written, PAGE_BYTES, offset(disk, block)) == PAGE_BYTES) {
        disk->version[block] = version;
        disk->writes++;
    } else {
        say("ERROR what=diskwrite disk=%s block=%lu errno=%d", disk->name, block, errno);
    }
    pthread_mutex_unlock(&disk->lock);
}

static void *write_disk(void *argument)
{
    struct disk *disk = argument;
    uint64_t random = 99;

    for (;;) {
        random = pattern_mix(random + 0x9e3779b97f4a7c15ULL);
        write_block(disk, random % disk->blocks);
        sleep_s(1.0 / options.disk_rate);
    }
    return NULL;
}

/* 1: as memory says, 0: not, -1: never written */
static int check_block(struct disk *disk, uint64_t block)
{
    int result = -1;

    pthread_mutex_lock(&disk->lock);
    uint32_t version = disk->version[block];
    if (version) {
        ssize_t count = pread(disk->file, disk->read, PAGE_BYTES, offset(disk, block));
        result = count == PAGE_BYTES && pattern_matches((uint64_t *)disk->read, identity(disk, block), version);
        if (!result && disk->bad++ < BAD_SAID)
            say("BADBLOCK disk=%s block=%lu version=%u read=%zd errno=%d", disk->name, block, version, count,
                count < 0 ? errno : 0);
    }
    pthread_mutex_unlock(&disk->lock);
    return result;
}

static void *check_disk(void *argument)
{
    struct disk *disk = argument;

    for (unsigned n = 0;; n++) {
        uint64_t touched = 0, bad = 0;
        double begin = now_s();
        for (uint64_t block = 0; block < disk->blocks; block++) {
            int result = check_block(disk, block);
            touched += result >= 0;
            bad += result == 0;
        }
        say("DISKCHECK disk=%s n=%u blocks=%lu bad=%lu untouched=%lu writes=%lu", disk->name, n, touched, bad,
            disk->blocks - touched, disk->writes);
        sleep_s(ROUND_PAUSE_S + options.disk_rest * (now_s() - begin));
    }
    return NULL;
}

static int open_disk(struct disk *disk, unsigned index)
{
    char path[16];

    snprintf(path, sizeof path, "/dev/vd%c", 'a' + (char)index);
    disk->file = open(path, O_RDWR | O_DIRECT);
    if (disk->file < 0) { /* Xen's name */
        snprintf(path, sizeof path, "/dev/xvd%c", 'a' + (char)index);
        disk->file = open(path, O_RDWR | O_DIRECT);
    }
    snprintf(disk->name, sizeof disk->name, "%.7s", path + strlen("/dev/"));
    if (disk->file < 0)
        return 0;
    disk->first = index == 0 ? (uint64_t)options.boot_mib * (1 << 20) / PAGE_BYTES : 0;
    disk->blocks = (uint64_t)lseek(disk->file, 0, SEEK_END) / PAGE_BYTES;
    disk->blocks = disk->blocks > disk->first ? disk->blocks - disk->first : 0;
    if (disk->blocks > options.disk_blocks)
        disk->blocks = options.disk_blocks;
    disk->version = calloc(disk->blocks, sizeof *disk->version);
    pthread_mutex_init(&disk->lock, NULL);
    if (posix_memalign((void **)&disk->written, PAGE_BYTES, PAGE_BYTES) ||
        posix_memalign((void **)&disk->read, PAGE_BYTES, PAGE_BYTES) || !disk->version || !disk->blocks) {
        say("ERROR what=disk disk=%s", disk->name);
        return 0;
    }
    return 1;
}

unsigned disk_start(void)
{
    unsigned found = 0;

    for (unsigned i = 0; i < DISKS; i++) {
        if (!open_disk(&disks[i], i)) /* not there, or read-only: a config drive */
            continue;
        start_thread(write_disk, &disks[i]);
        start_thread(check_disk, &disks[i]);
        found++;
    }
    return found;
}
