/* Addresses by DHCP: a client for each interface, started anew when the interface is another one or its cable was put in again.
 *
 * The client is busybox's; /dhcp gives the interface what it got.
 */
#include "guest.h"

#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/types.h>
#include <sys/wait.h>

#define INTERFACES 8

static struct client {
    char interface[16], mac[32];
    int carrier, seen;
    pid_t pid; /* 0: none */
} clients[INTERFACES];

static char *const no_environment[] = { NULL };

static void stop(struct client *client)
{
    if (client->pid > 0) {
        kill(client->pid, SIGKILL);
        waitpid(client->pid, NULL, 0);
    }
    client->pid = 0;
}

static void start(struct client *client)
{
    char *const words[] = { "udhcpc", "-f", "-i", client->interface, "-s", "/dhcp", "-t", "5", "-T", "1", "-A", "1", NULL };
    pid_t pid;

    stop(client);
    if (posix_spawn(&pid, "/busybox", NULL, NULL, words, no_environment) == 0)
        client->pid = pid;
    else
        say("ERROR what=dhcp interface=%s", client->interface);
}

static struct client *client_of(const char *interface)
{
    struct client *unused = NULL;

    for (struct client *client = clients; client < clients + INTERFACES; client++) {
        if (!strcmp(client->interface, interface))
            return client;
        if (!unused && !client->interface[0])
            unused = client;
    }
    if (unused)
        snprintf(unused->interface, sizeof unused->interface, "%.*s", (int)sizeof unused->interface - 1, interface);
    return unused;
}

/* Process 1 has every orphan for a child; a client among them is started anew at the next look. */
static void reap(void)
{
    pid_t pid;

    while ((pid = waitpid(-1, NULL, WNOHANG)) > 0)
        for (struct client *client = clients; client < clients + INTERFACES; client++)
            if (client->pid == pid)
                client->pid = 0;
}

void dhcp_begin_look(void)
{
    for (struct client *client = clients; client < clients + INTERFACES; client++)
        client->seen = 0;
}

void dhcp_look(const char *interface, const char *mac, int carrier)
{
    struct client *client = options.dhcp ? client_of(interface) : NULL;

    if (!client)
        return;
    int changed = strcmp(client->mac, mac) != 0 || !client->carrier || !client->pid;
    snprintf(client->mac, sizeof client->mac, "%s", mac);
    client->carrier = carrier;
    client->seen = 1;
    if (changed && carrier)
        start(client);
}

void dhcp_end_look(void)
{
    for (struct client *client = clients; client < clients + INTERFACES; client++)
        if (client->interface[0] && !client->seen) {
            stop(client);
            memset(client, 0, sizeof *client);
        }
    reap();
}
