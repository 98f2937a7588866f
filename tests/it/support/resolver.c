/* A resolver of the tests' own, loaded before the system's (LD_PRELOAD). Names that end with
 * `.test` are answered from the file that RESOLVER_ANSWERS names: the first look-up with the
 * addresses of its first line, the second with those of its second, and so on, the last line
 * for ever. Names that end with `.slow.test` have to wait for their answer for as many seconds as
 * RESOLVER_SECONDS says, and each of their look-ups is noted in the file RESOLVER_NOTES. Every other
 * name goes the system's way. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <netdb.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef int (*lookup)(const char *, const char *, const struct addrinfo *, struct addrinfo **);

static atomic_int calls;

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **result)
{
    lookup real = (lookup)dlsym(RTLD_NEXT, "getaddrinfo");
    const char *path = getenv("RESOLVER_ANSWERS");
    size_t length = node ? strlen(node) : 0;
    if (!path || length < 5 || strcmp(node + length - 5, ".test") != 0)
        return real(node, service, hints, result);

    const char *notes = getenv("RESOLVER_NOTES"), *seconds = getenv("RESOLVER_SECONDS");
    if (length >= 10 && strcmp(node + length - 10, ".slow.test") == 0) {
        FILE *noted = notes ? fopen(notes, "a") : NULL;
        if (noted) {
            fprintf(noted, "%s\n", node);
            fclose(noted);
        }
        usleep((useconds_t)(atof(seconds ? seconds : "0") * 1e6));
    }

    FILE *file = fopen(path, "r");
    if (!file)
        return EAI_AGAIN;
    char line[1024] = "", next[1024];
    int call = atomic_fetch_add(&calls, 1);
    while (fgets(next, sizeof next, file)) {
        strcpy(line, next);
        if (call-- == 0)
            break;
    }
    fclose(file);

    struct addrinfo wanted = {0}, **tail = result;
    if (hints)
        wanted = *hints;
    wanted.ai_flags |= AI_NUMERICHOST;
    *result = NULL;
    for (char *address = strtok(line, " \n"); address; address = strtok(NULL, " \n")) {
        if (real(address, service, &wanted, tail) != 0)
            continue;
        while (*tail)
            tail = &(*tail)->ai_next;
    }
    return *result ? 0 : EAI_NONAME;
}
