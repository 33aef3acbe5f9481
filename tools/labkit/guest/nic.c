/* Network interfaces: who they are, whether the cable is in, and a small frame each second so that a capture shows who speaks.
 *
 * NIC: name=, mac=, carrier= 1 or 0, sent= frames that the kernel took since boot, ip= its address or "none". An interface that was
 * changed while running is found by its new name.
 */
#include "guest.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define ETHERTYPE_EXPERIMENT 0x88b5 /* IEEE 802, for local experiments */
#define FRAME_BYTES 60              /* the shortest that Ethernet carries, without its checksum */

static unsigned long sent;

static void read_word(const char *interface, const char *attribute, char *out, size_t limit)
{
    char path[128];

    snprintf(path, sizeof path, "/sys/class/net/%s/%s", interface, attribute);
    int count = read_file(path, out, limit - 1);
    out[count > 0 ? count : 0] = '\0';
    out[strcspn(out, "\n")] = '\0';
}

static void bring_up(const char *interface)
{
    struct ifreq request = { 0 };
    int control = socket(AF_INET, SOCK_DGRAM, 0);

    if (control < 0)
        return;
    snprintf(request.ifr_name, IFNAMSIZ, "%.*s", IFNAMSIZ - 1, interface);
    if (ioctl(control, SIOCGIFFLAGS, &request) == 0 && !(request.ifr_flags & IFF_UP)) {
        request.ifr_flags |= IFF_UP;
        ioctl(control, SIOCSIFFLAGS, &request);
    }
    close(control);
}

static void send_frame(const char *interface, const char *mac, int sequence)
{
    uint8_t frame[FRAME_BYTES] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };
    unsigned octet[6];
    int raw = socket(AF_PACKET, SOCK_RAW, htons(ETHERTYPE_EXPERIMENT));

    if (raw < 0)
        return;
    struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_ifindex = (int)if_nametoindex(interface), .sll_halen = 6 };
    if (sscanf(mac, "%x:%x:%x:%x:%x:%x", octet, octet + 1, octet + 2, octet + 3, octet + 4, octet + 5) == 6) {
        for (int i = 0; i < 6; i++)
            frame[6 + i] = (uint8_t)octet[i];
        frame[12] = ETHERTYPE_EXPERIMENT >> 8;
        frame[13] = ETHERTYPE_EXPERIMENT & 0xff;
        snprintf((char *)frame + 14, sizeof frame - 14, "lab guest %d", sequence);
        if (sendto(raw, frame, sizeof frame, 0, (struct sockaddr *)&to, sizeof to) == sizeof frame)
            sent++;
    }
    close(raw);
}

static void read_address(const char *interface, char *out, size_t limit)
{
    struct ifreq request = { .ifr_addr.sa_family = AF_INET };
    int control = socket(AF_INET, SOCK_DGRAM, 0);

    snprintf(out, limit, "none");
    if (control < 0)
        return;
    snprintf(request.ifr_name, IFNAMSIZ, "%.*s", IFNAMSIZ - 1, interface);
    if (ioctl(control, SIOCGIFADDR, &request) == 0)
        inet_ntop(AF_INET, &((struct sockaddr_in *)&request.ifr_addr)->sin_addr, out, (socklen_t)limit);
    close(control);
}

/* Every interface but the loopback, as its name, MAC and carrier. */
static unsigned each_interface(void (*visit)(const char *interface, const char *mac, int carrier))
{
    DIR *directory = opendir("/sys/class/net");
    struct dirent *entry;
    unsigned found = 0;

    while (directory && (entry = readdir(directory))) {
        char mac[32], carrier[8];
        if (entry->d_name[0] == '.' || !strcmp(entry->d_name, "lo"))
            continue;
        bring_up(entry->d_name);
        read_word(entry->d_name, "address", mac, sizeof mac);
        read_word(entry->d_name, "carrier", carrier, sizeof carrier);
        visit(entry->d_name, mac, carrier[0] == '1');
        found++;
    }
    if (directory)
        closedir(directory);
    return found;
}

static int reported;

static void report(const char *interface, const char *mac, int carrier)
{
    char address[INET_ADDRSTRLEN];

    read_address(interface, address, sizeof address);
    send_frame(interface, mac, reported);
    say("NIC name=%s mac=%s carrier=%d sent=%lu ip=%s", interface, mac, carrier, sent, address);
}

unsigned nic_report(int sequence)
{
    reported = sequence;
    return each_interface(report);
}

void nic_follow(void)
{
    dhcp_begin_look();
    each_interface(dhcp_look);
    dhcp_end_look();
}
