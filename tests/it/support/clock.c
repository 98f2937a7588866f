/* A clock of the tests' own, loaded before the system's (LD_PRELOAD): the time of day is so many
 * seconds ahead of the machine's as the file says that CLOCK_AHEAD names. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t which, struct timespec *now)
{
    static int (*real)(clockid_t, struct timespec *);
    char text[32] = "";
    if (!real)
        real = (__typeof__(real))dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(which, now);
    const char *path = getenv("CLOCK_AHEAD");
    if (done == 0 && which == CLOCK_REALTIME && path) {
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        if (fd >= 0) {
            if (read(fd, text, sizeof text - 1) > 0)
                now->tv_sec += atol(text);
            close(fd);
        }
    }
    return done;
}
