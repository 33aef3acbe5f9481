/* The vTPM, by raw commands on /dev/tpm0 (TCG, TPM 2.0 Library, part 3).
 *
 * TPM: each few seconds. rc= of the first command that failed, else 0; random= 8 bytes of its generator; pcr16= its value;
 * pcr16_kept= whether that is what this guest's own extends make of it (0 once after the TPM was changed for another or started
 * anew); clock_ms=, resets=, restarts= from TPM2_ReadClock; ek_rsa= and ek_ecc= SHA-256 of the EK certificates in NV.
 * PCRS: p1= ... p7=, the SHA-256 bank.
 */
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define ANSWER_BYTES 4096
#define ROUND_PAUSE_S 2.0
#define NV_CHUNK 512
#define EK_BYTES 4096

enum { NO_SESSIONS = 0x8001, SESSIONS = 0x8002 };
enum { CC_PCR_EXTEND = 0x182, CC_NV_READ = 0x14e, CC_NV_READ_PUBLIC = 0x169, CC_GET_RANDOM = 0x17b, CC_PCR_READ = 0x17e,
       CC_READ_CLOCK = 0x181 };
enum { ALG_SHA256 = 0x0b, RS_PW = 0x40000009 };

static int device = -1;
static uint32_t failure; /* the first response code of this round that was not success */
static uint8_t answer[ANSWER_BYTES];
static int answer_bytes;

/* A command while it is written: big-endian, as everything in TPM 2.0. */
struct command {
    uint8_t bytes[256];
    int size;
};

static void put(struct command *c, uint64_t value, int width)
{
    for (int i = width - 1; i >= 0; i--)
        c->bytes[c->size++] = (uint8_t)(value >> (8 * i));
}

static struct command begin(uint16_t tag, uint32_t code)
{
    struct command c = { .size = 0 };

    put(&c, tag, 2);
    put(&c, 0, 4); /* the size, filled in when it is sent */
    put(&c, code, 4);
    return c;
}

/* The authorization area with one empty password. */
static void put_empty_password(struct command *c)
{
    put(c, 9, 4);
    put(c, RS_PW, 4);
    put(c, 0, 2);
    put(c, 0, 1);
    put(c, 0, 2);
}

static uint64_t get(int offset, int width)
{
    uint64_t value = 0;

    for (int i = 0; i < width; i++)
        value = value << 8 | answer[offset + i];
    return value;
}

/* Whether the TPM did it, with at least `expected` bytes in the answer. */
static int run(struct command *c, int expected)
{
    for (int i = 0; i < 4; i++)
        c->bytes[2 + i] = (uint8_t)(c->size >> (24 - 8 * i));
    answer_bytes = 0;
    if (write(device, c->bytes, (size_t)c->size) == c->size)
        answer_bytes = (int)read(device, answer, sizeof answer);
    uint32_t code = answer_bytes >= 10 ? (uint32_t)get(6, 4) : 0xffff0000u | (uint32_t)errno;
    if (code == 0 && answer_bytes >= expected)
        return 1;
    if (!failure)
        failure = code ? code : 0xfffe0000u;
    return 0;
}

static int read_pcrs(unsigned mask)
{
    struct command c = begin(NO_SESSIONS, CC_PCR_READ);

    put(&c, 1, 4);
    put(&c, ALG_SHA256, 2);
    put(&c, 3, 1);
    for (int i = 0; i < 3; i++)
        put(&c, mask >> (8 * i) & 0xff, 1);
    return run(&c, 10 + 4 + 10 + 4 + 34) && get(24, 4) > 0;
}

static void extend_16(const uint8_t digest[32])
{
    struct command c = begin(SESSIONS, CC_PCR_EXTEND);

    put(&c, 16, 4);
    put_empty_password(&c);
    put(&c, 1, 4);
    put(&c, ALG_SHA256, 2);
    for (int i = 0; i < 32; i++)
        put(&c, digest[i], 1);
    run(&c, 10);
}

/* The SHA-256 of what an NV index holds, in hex, or "none". An index that is not there is no failure. */
static void nv_digest(uint32_t index, char text[65])
{
    static uint8_t content[EK_BYTES];
    uint32_t before = failure;
    struct command c = begin(NO_SESSIONS, CC_NV_READ_PUBLIC);
    uint8_t digest[32];

    strcpy(text, "none");
    put(&c, index, 4);
    if (!run(&c, 10 + 2 + 14)) {
        failure = before;
        return;
    }
    int public_bytes = (int)get(10, 2);
    int size = (int)get(12 + public_bytes - 2, 2), done = 0;
    while (done < size && size <= EK_BYTES) {
        int count = size - done < NV_CHUNK ? size - done : NV_CHUNK;
        c = begin(SESSIONS, CC_NV_READ);
        put(&c, index, 4);
        put(&c, index, 4);
        put_empty_password(&c);
        put(&c, (uint64_t)count, 2);
        put(&c, (uint64_t)done, 2);
        if (!run(&c, 16 + count))
            return;
        memcpy(content + done, answer + 16, (size_t)count);
        done += count;
    }
    sha256(content, (size_t)done, digest);
    hex(text, digest, 32);
}

static void say_pcrs(void)
{
    char p[7][65];

    if (!read_pcrs(0xfe) || get(24, 4) != 7 || answer_bytes < 28 + 7 * 34)
        return;
    for (int i = 0; i < 7; i++)
        hex(p[i], answer + 28 + i * 34 + 2, 32);
    say("PCRS p1=%s p2=%s p3=%s p4=%s p5=%s p6=%s p7=%s", p[0], p[1], p[2], p[3], p[4], p[5], p[6]);
}

/* Read PCR 16, compare it with what was left there, extend it, and note what must be there next time. */
static int use_pcr_16(char text[65])
{
    static uint8_t expected[64]; /* the value, then room for the digest that extends it */
    static const uint8_t measured[32] = "lab guest was here";
    int kept = 0;

    strcpy(text, "none");
    if (!read_pcrs(1u << 16))
        return 0;
    kept = !memcmp(expected, answer + 30, 32);
    hex(text, answer + 30, 32);
    memcpy(expected, answer + 30, 32);
    extend_16(measured);
    memcpy(expected + 32, measured, 32);
    sha256(expected, 64, expected);
    return kept;
}

static void report(unsigned n)
{
    char random[17] = "none", pcr16[65], ek_rsa[65], ek_ecc[65];
    uint64_t clock_ms = 0, resets = 0, restarts = 0;
    struct command c = begin(NO_SESSIONS, CC_GET_RANDOM);
    double started = now_s();

    failure = 0;
    put(&c, 8, 2);
    if (run(&c, 20))
        hex(random, answer + 12, 8);
    int kept = use_pcr_16(pcr16);
    c = begin(NO_SESSIONS, CC_READ_CLOCK);
    if (run(&c, 10 + 25)) {
        clock_ms = get(18, 8);
        resets = get(26, 4);
        restarts = get(30, 4);
    }
    nv_digest(0x01c00002, ek_rsa);
    nv_digest(0x01c0000a, ek_ecc);
    if (!strcmp(ek_ecc, "none"))
        nv_digest(0x01c00016, ek_ecc); /* P-384, which swtpm makes */
    say("TPM n=%u rc=%x random=%s pcr16=%s pcr16_kept=%d clock_ms=%lu resets=%lu restarts=%lu ek_rsa=%s ek_ecc=%s ms=%.1f", n,
        failure, random, pcr16, kept, clock_ms, resets, restarts, ek_rsa, ek_ecc, (now_s() - started) * 1e3);
    say_pcrs();
}

static void *work(void *unused)
{
    (void)unused;
    for (unsigned n = 0;; n++) {
        report(n);
        sleep_s(ROUND_PAUSE_S);
    }
    return NULL;
}

int tpm_start(void)
{
    device = open("/dev/tpm0", O_RDWR);
    if (device < 0)
        return 0;
    start_thread(work, NULL);
    return 1;
}
