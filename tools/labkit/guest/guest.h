/* The lab's guest: one program that is process 1 and the whole user space.
 *
 * It keeps memory and disks full of patterns that it can predict, changes them all the time and checks them all the time, and
 * says on the kernel's console what it found. A clone of it that carries one wrong byte says so by itself.
 *
 * A line is one kind, then key=value words, then a semicolon; a line without its semicolon was cut and means nothing.
 */
#ifndef LAB_GUEST_H
#define LAB_GUEST_H

#include <stddef.h>
#include <stdint.h>

#define PAGE_BYTES 4096

/* --- what was asked for on the kernel's command line --- */
struct options {
    uint64_t pages;        /* np=: pages under check; 0: half of the memory */
    unsigned page_rate;    /* rate=: pages changed in a second */
    unsigned disk_rate;    /* diskrate=: blocks written in a second, for each disk */
    unsigned disk_blocks;  /* diskblocks=: the most under check of each disk: a round takes seconds, not minutes */
    unsigned rest;         /* rest=: how much longer than it checks memory the checker then sleeps */
    unsigned disk_rest;    /* diskrest=: how much longer than it checks a disk the checker then sleeps, besides its pause */
    int touch;             /* touch=1: all memory is written to once, as in a server that has been up for a while */
    unsigned boot_mib;     /* bootmib=: the first of the first disk, where its boot files are, are left alone */
    int dhcp;              /* dhcp=1: each interface asks for an address */
};
extern struct options options;

/* --- print.c --- */
void say(const char *format, ...) __attribute__((format(printf, 1, 2)));
double now_s(void);
void sleep_s(double seconds);
void hex(char *out, const uint8_t *bytes, size_t count); /* out: 2 * count + 1 characters */
int read_file(const char *path, void *out, size_t limit); /* bytes read, or -1 */
void start_thread(void *(*work)(void *), void *argument);

/* --- pattern.c: bytes that follow from an identity and a version --- */
void pattern_fill(uint64_t *words, uint64_t identity, uint32_t version);
int pattern_matches(const uint64_t *words, uint64_t identity, uint32_t version);
uint64_t pattern_mix(uint64_t value);

/* --- sha256.c: FIPS 180-4 --- */
void sha256(const uint8_t *data, size_t count, uint8_t digest[32]);

/* --- the parts; each says its own lines --- */
uint64_t memory_start(void);         /* pages under check */
unsigned disk_start(void);           /* disks found */
unsigned nic_report(int sequence);   /* network interfaces found */
void nic_follow(void);               /* looks for interfaces that came, went or were changed: each asks for an address */
void dhcp_begin_look(void);
void dhcp_look(const char *interface, const char *mac, int carrier);
void dhcp_end_look(void);            /* those that were not looked at since the look began are gone */
int tpm_start(void);                 /* 1 when there is a TPM */
int genid_report(int always);        /* 1 when there is a generation id; says it when it has changed, or always */

#endif
