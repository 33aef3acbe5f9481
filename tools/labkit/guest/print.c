/* Lines on the serial port, time, small files, threads. */
#include "guest.h"

#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES 1024

static pthread_mutex_t line_lock = PTHREAD_MUTEX_INITIALIZER;

/* One write a line, under a lock: lines of several threads never mix. */
void say(const char *format, ...)
{
    char line[LINE_BYTES];
    va_list arguments;

    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 4, format, arguments);
    va_end(arguments);
    if (length < 0)
        return;
    if ((size_t)length > sizeof line - 5)
        length = sizeof line - 5;
    memcpy(line + length, " ;\n", 3);
    length += 3;

    pthread_mutex_lock(&line_lock);
    for (int sent = 0; sent < length;) {
        ssize_t count = write(STDOUT_FILENO, line + sent, (size_t)(length - sent));
        if (count <= 0)
            break;
        sent += (int)count;
    }
    pthread_mutex_unlock(&line_lock);
}

double now_s(void)
{
    struct timespec at;

    clock_gettime(CLOCK_MONOTONIC, &at);
    return (double)at.tv_sec + (double)at.tv_nsec * 1e-9;
}

void sleep_s(double seconds)
{
    if (seconds <= 0)
        return;
    struct timespec span = { (time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9) };
    nanosleep(&span, NULL);
}

void hex(char *out, const uint8_t *bytes, size_t count)
{
    static const char digits[] = "0123456789abcdef";

    for (size_t i = 0; i < count; i++) {
        *out++ = digits[bytes[i] >> 4];
        *out++ = digits[bytes[i] & 15];
    }
    *out = '\0';
}

int read_file(const char *path, void *out, size_t limit)
{
    int file = open(path, O_RDONLY);

    if (file < 0)
        return -1;
    size_t done = 0;
    ssize_t count;
    while (done < limit && (count = read(file, (char *)out + done, limit - done)) > 0)
        done += (size_t)count;
    close(file);
    return (int)done;
}

void start_thread(void *(*work)(void *), void *argument)
{
    pthread_t thread;

    if (pthread_create(&thread, NULL, work, argument) != 0) {
        say("ERROR what=thread");
        abort();
    }
    pthread_detach(thread);
}
