/* Bytes that follow from an identity (which page or block) and a version (how often it was changed).
 *
 * A linear congruential generator (constants: Knuth, MMIX) seeded by a mixed identity and version: cheap enough to check
 * gigabytes under emulation, and no page's or version's content is another's.
 */
#include "guest.h"

#define WORDS (PAGE_BYTES / sizeof(uint64_t))
#define MULTIPLIER 6364136223846793005ULL
#define INCREMENT 1442695040888963407ULL

/* The finaliser of MurmurHash3 (public domain): every input bit reaches every output bit. */
uint64_t pattern_mix(uint64_t value)
{
    value ^= value >> 33;
    value *= 0xff51afd7ed558ccdULL;
    value ^= value >> 33;
    value *= 0xc4ceb9fe1a85ec53ULL;
    return value ^ (value >> 33);
}

static uint64_t seed(uint64_t identity, uint32_t version)
{
    return pattern_mix(pattern_mix(identity + 1) + version);
}

void pattern_fill(uint64_t *words, uint64_t identity, uint32_t version)
{
    uint64_t state = seed(identity, version);

    for (size_t i = 0; i < WORDS; i++)
        words[i] = state = state * MULTIPLIER + INCREMENT;
}

int pattern_matches(const uint64_t *words, uint64_t identity, uint32_t version)
{
    uint64_t state = seed(identity, version);

    for (size_t i = 0; i < WORDS; i++)
        if (words[i] != (state = state * MULTIPLIER + INCREMENT))
            return 0;
    return 1;
}
