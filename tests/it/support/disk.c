/* A disk of the tests' own, loaded before the system's (LD_PRELOAD). It sees what a process does
 * to the files whose path begins with DISK_FILES.
 *
 * DISK_TRACE: a file to which every write, change of size, sync, renaming and removal is noted,
 *   in the order in which they happened, with the bytes that were written.
 * DISK_IGNORES: "fdatasync": as if the program did not call it; it is neither done nor noted.
 * DISK_FAULT: a file; while it is there, it says what fails and how: "pwrite ENOSPC",
 *   "fdatasync EIO", "open EROFS". It is looked at before each operation. "fdatasync STALL": it does
 *   not come back while the file says so; so does "pwrite STALL", which is the log of the store. "overtaken EIO": a
 *   write of a few bytes that comes now fails, a second after a longer one has succeeded. A sync that fails with
 *   EIO takes back all that was written to the file since the last one: the system may forget
 *   it, and says so only once.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILES 65536
#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

static pthread_mutex_t order = PTHREAD_MUTEX_INITIALIZER;
static char *paths[FILES];
static int trace = -2;

/* The path as it is seen from the root, where it is one of ours. */
static char *ours(const char *path)
{
    const char *files = getenv("DISK_FILES");
    char whole[PATH_MAX * 2], folder[PATH_MAX];
    if (!files || !path)
        return NULL;
    if (path[0] == '/')
        snprintf(whole, sizeof whole, "%s", path);
    else if (getcwd(folder, sizeof folder))
        snprintf(whole, sizeof whole, "%s/%s", folder, path);
    else
        return NULL;
    return strncmp(whole, files, strlen(files)) == 0 ? strdup(whole) : NULL;
}

static void put(const void *bytes, size_t length)
{
    const char *at = bytes;
    while (length > 0) {
        ssize_t done = REAL(write)(trace, at, length);
        if (done <= 0)
            abort();
        at += done;
        length -= (size_t)done;
    }
}

/* kind, two numbers, a path, and bytes, each with its length before it. */
static void note(char kind, const char *path, uint64_t number, const void *bytes, uint64_t length)
{
    uint64_t path_length = strlen(path);
    if (trace == -2) {
        const char *to = getenv("DISK_TRACE");
        trace = to ? REAL(open)(to, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600) : -1;
    }
    if (trace < 0)
        return;
    put(&kind, 1);
    put(&number, 8);
    put(&path_length, 8);
    put(&length, 8);
    put(path, path_length);
    put(bytes, length);
}

static int fails(const char *operation)
{
    static const struct { const char *name; int number; } errors[] = {
        {"EIO", EIO}, {"ENOSPC", ENOSPC}, {"EDQUOT", EDQUOT}, {"EROFS", EROFS},
    };
    const char *path = getenv("DISK_FAULT");
    char rule[64] = "", *error;
    int fd = path ? REAL(open)(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return 0;
    ssize_t length = read(fd, rule, sizeof rule - 1);
    REAL(close)(fd);
    if (length <= 0 || !(error = strchr(rule, ' ')))
        return 0;
    *error++ = 0;
    error[strcspn(error, "\n")] = 0;
    if (strcmp(rule, operation) != 0)
        return 0;
    for (size_t at = 0; at < sizeof errors / sizeof *errors; at++)
        if (strcmp(errors[at].name, error) == 0) {
            errno = errors[at].number;
            return 1;
        }
    return 0;
}

static char *path_of(int fd) { return fd >= 0 && fd < FILES ? paths[fd] : NULL; }

static int opened(const char *name, int flags, mode_t mode, int (*real)(const char *, int, ...))
{
    char *path = ours(name);
    if (!path)
        return real(name, flags, mode);
    pthread_mutex_lock(&order);
    int fd = -1;
    if (!((flags & O_ACCMODE) != O_RDONLY && fails("open"))) {
        int existed = access(name, F_OK) == 0;
        fd = real(name, flags, mode);
        if (fd >= 0 && (flags & O_CREAT) && !existed)
            note('c', path, 0, "", 0);
        if (fd >= 0 && (flags & O_TRUNC) && existed)
            note('t', path, 0, "", 0);
    }
    if (fd >= 0 && fd < FILES) {
        free(paths[fd]);
        paths[fd] = path;
    } else {
        free(path);
    }
    pthread_mutex_unlock(&order);
    return fd;
}

#define OPEN(name)                                                 \
    int name(const char *path, int flags, ...)                     \
    {                                                              \
        va_list rest;                                              \
        va_start(rest, flags);                                     \
        mode_t mode = flags & O_CREAT ? va_arg(rest, mode_t) : 0;  \
        va_end(rest);                                              \
        return opened(path, flags, mode, REAL(name));              \
    }
OPEN(open)
OPEN(open64)

int close(int fd)
{
    if (path_of(fd)) {
        pthread_mutex_lock(&order);
        free(paths[fd]);
        paths[fd] = NULL;
        pthread_mutex_unlock(&order);
    }
    return REAL(close)(fd);
}

/* What was there before it was written to, since the last sync; the latest first. */
static struct before {
    struct before *next;
    char *path;
    off64_t at, size;
    size_t length;
    char bytes[];
} *unsynced;

static void remember(int fd, const char *path, off64_t at, size_t length)
{
    struct stat64 is;
    struct before *it = malloc(sizeof *it + length);
    if (!getenv("DISK_FAULT") || !it || fstat64(fd, &is) != 0) {
        free(it);
        return;
    }
    ssize_t had = REAL(pread64)(fd, it->bytes, length, at);
    it->next = unsynced;
    it->path = strdup(path);
    it->at = at;
    it->size = is.st_size;
    it->length = had > 0 ? (size_t)had : 0;
    unsynced = it;
}

/* Forgets what was there before, or brings it back. */
static void settle(int fd, const char *path, int back)
{
    for (struct before **place = &unsynced, *it; (it = *place);) {
        if (strcmp(it->path, path) != 0) {
            place = &it->next;
            continue;
        }
        if (back && (REAL(pwrite64)(fd, it->bytes, it->length, it->at) < 0 ||
                     REAL(ftruncate64)(fd, it->size) != 0))
            abort();
        *place = it->next;
        free(it->path);
        free(it);
    }
}

/* Whether a longer write has succeeded since the rule is there, and where a short one waits. */
static pthread_cond_t overtook = PTHREAD_COND_INITIALIZER;
static int longer;
#define SHORT 100

static int overtaken(size_t length)
{
    if (length > SHORT || !fails("overtaken"))
        return 0;
    int error = errno;
    while (!longer)
        pthread_cond_wait(&overtook, &order);
    pthread_mutex_unlock(&order);
    sleep(1);
    pthread_mutex_lock(&order);
    errno = error;
    return 1;
}

static int stalls(const char *operation);

static ssize_t written(int fd, const void *bytes, size_t length, off64_t at, int positioned)
{
    const char *path = path_of(fd);
    if (!path)
        return positioned ? REAL(pwrite64)(fd, bytes, length, at)
                          : REAL(write)(fd, bytes, length);
    while (positioned && stalls("pwrite"))
        usleep(10000);
    pthread_mutex_lock(&order);
    ssize_t done = -1;
    if (!fails("pwrite") && !overtaken(length)) {
        if (!positioned)
            at = lseek64(fd, 0, SEEK_CUR);
        remember(fd, path, at, length);
        done = positioned ? REAL(pwrite64)(fd, bytes, length, at)
                          : REAL(write)(fd, bytes, length);
        if (done > 0)
            note('w', path, (uint64_t)at, bytes, (uint64_t)done);
        if (done > SHORT && fails("overtaken")) {
            longer = 1;
            pthread_cond_broadcast(&overtook);
        }
    }
    pthread_mutex_unlock(&order);
    return done;
}

ssize_t write(int fd, const void *bytes, size_t length) { return written(fd, bytes, length, 0, 0); }
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t at)
{
    return written(fd, bytes, length, at, 1);
}
ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t at)
{
    return written(fd, bytes, length, at, 1);
}

static ssize_t had(int fd, void *bytes, size_t length, off64_t at)
{
    if (path_of(fd)) {
        pthread_mutex_lock(&order);
        int broken = fails("pread");
        pthread_mutex_unlock(&order);
        if (broken)
            return -1;
    }
    return REAL(pread64)(fd, bytes, length, at);
}

ssize_t pread(int fd, void *bytes, size_t length, off_t at) { return had(fd, bytes, length, at); }
ssize_t pread64(int fd, void *bytes, size_t length, off64_t at)
{
    return had(fd, bytes, length, at);
}

static int truncated(int fd, off64_t length)
{
    const char *path = path_of(fd);
    if (!path)
        return REAL(ftruncate64)(fd, length);
    pthread_mutex_lock(&order);
    int done = fails("pwrite") ? -1 : REAL(ftruncate64)(fd, length);
    if (done == 0)
        note('t', path, (uint64_t)length, "", 0);
    pthread_mutex_unlock(&order);
    return done;
}

int ftruncate(int fd, off_t length) { return truncated(fd, length); }
int ftruncate64(int fd, off64_t length) { return truncated(fd, length); }

static int stalls(const char *operation)
{
    const char *path = getenv("DISK_FAULT");
    char rule[64] = "", wanted[64];
    int fd = path ? REAL(open)(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0)
        return 0;
    ssize_t length = read(fd, rule, sizeof rule - 1);
    REAL(close)(fd);
    snprintf(wanted, sizeof wanted, "%s STALL", operation);
    return length > 0 && strncmp(rule, wanted, strlen(wanted)) == 0;
}

static int synced(int fd, const char *operation, int (*real)(int))
{
    const char *path = path_of(fd), *ignored = getenv("DISK_IGNORES");
    if (!path)
        return real(fd);
    if (ignored && strcmp(ignored, operation) == 0)
        return 0;
    while (stalls(operation))
        usleep(10000);
    pthread_mutex_lock(&order);
    int done = fails(operation) ? -1 : real(fd), error = errno;
    if (done == 0 || error == EIO)
        settle(fd, path, done != 0);
    errno = error;
    if (done == 0)
        note('s', path, 0, "", 0);
    pthread_mutex_unlock(&order);
    return done;
}

int fsync(int fd) { return synced(fd, "fsync", REAL(fsync)); }
int fdatasync(int fd) { return synced(fd, "fdatasync", REAL(fdatasync)); }

int rename(const char *from, const char *to)
{
    char *old = ours(from), *new = ours(to);
    pthread_mutex_lock(&order);
    int done = REAL(rename)(from, to);
    if (done == 0 && old && new)
        note('r', old, 0, new, strlen(new));
    pthread_mutex_unlock(&order);
    free(old);
    free(new);
    return done;
}

static int removed(const char *name, char kind, int (*real)(const char *))
{
    char *path = ours(name);
    pthread_mutex_lock(&order);
    int done = real(name);
    if (done == 0 && path)
        note(kind, path, 0, "", 0);
    pthread_mutex_unlock(&order);
    free(path);
    return done;
}

int unlink(const char *path) { return removed(path, 'u', REAL(unlink)); }
int rmdir(const char *path) { return removed(path, 'u', REAL(rmdir)); }

int unlinkat(int folder, const char *name, int flags)
{
    char link[64], base[PATH_MAX], whole[PATH_MAX * 2];
    if (name[0] == '/' || folder == AT_FDCWD) {
        snprintf(whole, sizeof whole, "%s", name);
    } else {
        snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
        ssize_t length = readlink(link, base, sizeof base - 1);
        base[length < 0 ? 0 : length] = 0;
        snprintf(whole, sizeof whole, "%s/%s", base, name);
    }
    char *path = ours(whole);
    pthread_mutex_lock(&order);
    int done = REAL(unlinkat)(folder, name, flags);
    if (done == 0 && path)
        note('u', path, 0, "", 0);
    pthread_mutex_unlock(&order);
    free(path);
    return done;
}

int mkdir(const char *name, mode_t mode)
{
    char *path = ours(name);
    pthread_mutex_lock(&order);
    int done = REAL(mkdir)(name, mode);
    if (done == 0 && path)
        note('d', path, 0, "", 0);
    pthread_mutex_unlock(&order);
    free(path);
    return done;
}
