/* The virtual machine's generation id (Microsoft, "Virtual Machine Generation ID"): a hypervisor changes it when the machine has
 * become a copy.
 *
 * The device's ACPI table names where its page is (VGIA, QEMU docs/specs/vmgenid); the id is 40 bytes into it, the first three
 * fields little-endian. The page is reserved memory, which /dev/mem shows even to a kernel with STRICT_DEVMEM.
 *
 * GENID: value= as a UUID, changes= since boot.
 */
#include "guest.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define TABLES "/sys/firmware/acpi/tables"
#define ID_OFFSET 40
#define ID_BYTES 16

static const volatile uint8_t *id; /* in the mapped page; NULL: there is none */

/* Name(VGIA, dword) in ACPI's byte code: 08 'VGIA' 0c and four bytes, little-endian. */
static uint64_t address_in(const uint8_t *table, int count)
{
    static const uint8_t name[] = { 0x08, 'V', 'G', 'I', 'A', 0x0c };

    for (int i = 0; i + (int)sizeof name + 4 <= count; i++) {
        const uint8_t *value = table + i + sizeof name;
        if (!memcmp(table + i, name, sizeof name))
            return (uint64_t)value[0] | (uint64_t)value[1] << 8 | (uint64_t)value[2] << 16 | (uint64_t)value[3] << 24;
    }
    return 0;
}

static uint64_t find_address(void)
{
    static uint8_t table[65536];
    DIR *directory = opendir(TABLES);
    struct dirent *entry;
    uint64_t address = 0;

    while (directory && !address && (entry = readdir(directory))) {
        char path[320];
        if (strncmp(entry->d_name, "SSDT", 4) != 0)
            continue;
        snprintf(path, sizeof path, TABLES "/%s", entry->d_name);
        address = address_in(table, read_file(path, table, sizeof table));
    }
    if (directory)
        closedir(directory);
    return address;
}

static void map_id(void)
{
    uint64_t address = find_address();
    int memory = open("/dev/mem", O_RDONLY | O_SYNC);

    if (address && memory >= 0) {
        uint64_t page = address & ~(uint64_t)(PAGE_BYTES - 1);
        void *mapped = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, memory, (off_t)page);
        if (mapped != MAP_FAILED)
            id = (const volatile uint8_t *)mapped + (address - page) + ID_OFFSET;
        else
            say("ERROR what=genid address=%lx", address);
    }
    if (memory >= 0)
        close(memory);
}

int genid_report(int always)
{
    static uint8_t before[ID_BYTES];
    static int looked, changes;
    uint8_t g[ID_BYTES];

    if (!looked++)
        map_id();
    if (!id)
        return 0;
    for (int i = 0; i < ID_BYTES; i++)
        g[i] = id[i];
    int changed = looked > 1 && memcmp(before, g, ID_BYTES) != 0;
    changes += changed;
    memcpy(before, g, ID_BYTES);
    if (changed || always)
        say("GENID value=%02x%02x%02x%02x-%02x%02x-%02x%02x-%02x%02x-%02x%02x%02x%02x%02x%02x changes=%d", g[3], g[2], g[1],
            g[0], g[5], g[4], g[7], g[6], g[8], g[9], g[10], g[11], g[12], g[13], g[14], g[15], changes);
    return 1;
}
