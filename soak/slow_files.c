/* Slows the files in $SLOW_FOLDER: each call pauses, and each write takes a few hundred bytes.

   cc -shared -fPIC -o slow_files.so slow_files.c -ldl; LD_PRELOAD=./slow_files.so SLOW_FOLDER=/tmp/x python … */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PIECE 700
#define MICROSECONDS 1500

static int is_slow(const char *path) {
    const char *folder = getenv("SLOW_FOLDER");
    return folder && strncmp(path, folder, strlen(folder)) == 0;
}

static int is_slow_file(int file) {
    char name[64], path[4096];
    snprintf(name, sizeof name, "/proc/self/fd/%d", file);
    ssize_t length = readlink(name, path, sizeof path - 1);
    if (length < 0)
        return 0;
    path[length] = 0;
    return is_slow(path);
}

ssize_t write(int file, const void *content, size_t count) {
    static ssize_t (*real)(int, const void *, size_t);
    if (!real)
        real = dlsym(RTLD_NEXT, "write");
    if (!is_slow_file(file))
        return real(file, content, count);
    usleep(MICROSECONDS);
    return real(file, content, count > PIECE ? PIECE : count);
}

int fsync(int file) {
    static int (*real)(int);
    if (!real)
        real = dlsym(RTLD_NEXT, "fsync");
    if (is_slow_file(file))
        usleep(20 * MICROSECONDS);
    return real(file);
}

int rename(const char *from, const char *to) {
    static int (*real)(const char *, const char *);
    if (!real)
        real = dlsym(RTLD_NEXT, "rename");
    if (!is_slow(to))
        return real(from, to);
    usleep(5 * MICROSECONDS);
    int done = real(from, to);
    usleep(5 * MICROSECONDS);
    return done;
}
