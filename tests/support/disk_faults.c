/* Stands between a process and its disk, for tests: LD_PRELOAD it into Python, and from
   disk_faults_arm() on every call that changes a file below a folder is counted. At the chosen one
   the process is killed, a write being torn in its middle, or the disk begins to fail.

   fsync is counted and left out: what is tested outlives the process, not the machine. */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

enum { COUNT, KILL, FAIL_ONCE, FAIL_ON };

static char watched[PATH_MAX];
static volatile int armed;
static long at;
static long *count; /* shared with the processes that this one forks: workers count on */
static int way, number, log_to = -1;

void disk_faults_arm(const char *folder, int what, long point, int error, int log_file) {
    snprintf(watched, sizeof watched, "%s", folder);
    way = what, at = point, number = error, log_to = log_file;
    count = mmap(NULL, sizeof *count, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (count == MAP_FAILED) abort();
    armed = 1;
}

long disk_faults_count(void) { return *count; }

static int below(const char *path) {
    size_t length = strlen(watched);
    return !strncmp(path, watched, length) && (path[length] == '/' || !path[length]);
}

static void place_of(int folder, const char *path, char *out) {
    char base[PATH_MAX], link[64];
    ssize_t length;
    if (path && path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
        return;
    }
    if (folder == AT_FDCWD) snprintf(link, sizeof link, "/proc/self/cwd");
    else snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
    length = readlink(link, base, sizeof base - 1);
    base[length < 0 ? 0 : length] = 0;
    if (path && path[0]) snprintf(out, PATH_MAX, "%.2000s/%.2000s", base, path);
    else snprintf(out, PATH_MAX, "%s", base);
}

/* 0: go on; 1: fail with errno set; 2: die, after half the bytes where it is a write. */
static int meets(const char *call, int folder, const char *path) {
    char place[PATH_MAX], line[PATH_MAX + 64];
    int answer = 0, before = errno;
    long mine;
    if (!armed) return 0;
    place_of(folder, path, place);
    if (!below(place)) {
        errno = before;
        return 0;
    }
    mine = __atomic_add_fetch(count, 1, __ATOMIC_SEQ_CST);
    if (log_to >= 0) {
        int length = snprintf(line, sizeof line, "%s %s\n", call, place + strlen(watched));
        syscall(SYS_write, log_to, line, length);
    }
    if (way == KILL && mine == at) answer = 2;
    /* A full disk and a lost quota still let go of files. */
    if ((way == FAIL_ONCE && mine == at) || (way == FAIL_ON && mine >= at)) {
        int frees = !strcmp(call, "unlink") || !strcmp(call, "rmdir");
        answer = !((number == ENOSPC || number == EDQUOT) && frees);
    }
    errno = answer == 1 ? number : before;
    return answer;
}

static void die(void) {
    kill(getpid(), SIGKILL);
    for (;;) pause();
}

#define REAL(type, name, ...) \
    static type (*real)(__VA_ARGS__); \
    if (!real) real = (type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, name)

#define STAND_IN(call, folder, path) \
    switch (meets(call, folder, path)) { \
    case 1: return -1; \
    case 2: die(); \
    }


ssize_t write(int fd, const void *data, size_t size) {
    REAL(ssize_t, "write", int, const void *, size_t);
    switch (meets("write", fd, NULL)) {
    case 1: return -1;
    case 2: real(fd, data, size / 2); die();
    }
    return real(fd, data, size);
}

ssize_t pwrite64(int fd, const void *data, size_t size, off64_t offset) {
    REAL(ssize_t, "pwrite64", int, const void *, size_t, off64_t);
    switch (meets("write", fd, NULL)) {
    case 1: return -1;
    case 2: real(fd, data, size / 2, offset); die();
    }
    return real(fd, data, size, offset);
}

ssize_t pwrite(int fd, const void *data, size_t size, off_t offset) {
    return pwrite64(fd, data, size, offset);
}

ssize_t writev(int fd, const struct iovec *parts, int many) {
    REAL(ssize_t, "writev", int, const struct iovec *, int);
    switch (meets("write", fd, NULL)) {
    case 1: return -1;
    case 2: real(fd, parts, many / 2); die();
    }
    return real(fd, parts, many);
}

ssize_t sendfile64(int fd, int from, off64_t *offset, size_t size) {
    REAL(ssize_t, "sendfile64", int, int, off64_t *, size_t);
    switch (meets("write", fd, NULL)) {
    case 1: return -1;
    case 2: real(fd, from, offset, 1); die();
    }
    return real(fd, from, offset, size);
}

ssize_t sendfile(int fd, int from, off_t *offset, size_t size) {
    return sendfile64(fd, from, offset, size);
}

ssize_t copy_file_range(int from, off64_t *start, int fd, off64_t *offset, size_t size, unsigned f) {
    REAL(ssize_t, "copy_file_range", int, off64_t *, int, off64_t *, size_t, unsigned);
    STAND_IN("write", fd, NULL)
    return real(from, start, fd, offset, size, f);
}

#define FLUSH(name) \
    int name(int fd) { \
        REAL(int, #name, int); \
        STAND_IN("fsync", fd, NULL) \
        return armed ? 0 : real(fd); \
    }
FLUSH(fsync)
FLUSH(fdatasync)

int ftruncate64(int fd, off64_t size) {
    REAL(int, "ftruncate64", int, off64_t);
    STAND_IN("truncate", fd, NULL)
    return real(fd, size);
}

int ftruncate(int fd, off_t size) { return ftruncate64(fd, size); }

int posix_fallocate64(int fd, off64_t from, off64_t size) {
    REAL(int, "posix_fallocate64", int, off64_t, off64_t);
    switch (meets("truncate", fd, NULL)) {
    case 1: return number; /* it returns the error and leaves errno alone */
    case 2: die();
    }
    return real(fd, from, size);
}

int posix_fallocate(int fd, off_t from, off_t size) { return posix_fallocate64(fd, from, size); }

#define MAKES(flags) ((flags) & (O_CREAT | O_TRUNC) || ((flags) & O_TMPFILE) == O_TMPFILE)

#define OPEN(name) \
    int name(const char *path, int flags, ...) { \
        mode_t mode = 0; \
        va_list more; \
        REAL(int, #name, const char *, int, ...); \
        if (MAKES(flags)) { \
            va_start(more, flags), mode = va_arg(more, mode_t), va_end(more); \
            STAND_IN("open", AT_FDCWD, path) \
        } \
        return real(path, flags, mode); \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name) \
    int name(int folder, const char *path, int flags, ...) { \
        mode_t mode = 0; \
        va_list more; \
        REAL(int, #name, int, const char *, int, ...); \
        if (MAKES(flags)) { \
            va_start(more, flags), mode = va_arg(more, mode_t), va_end(more); \
            STAND_IN("open", folder, path) \
        } \
        return real(folder, path, flags, mode); \
    }
OPENAT(openat)
OPENAT(openat64)

int rename(const char *from, const char *to) {
    REAL(int, "rename", const char *, const char *);
    STAND_IN("rename", AT_FDCWD, to)
    return real(from, to);
}

int renameat(int a, const char *from, int b, const char *to) {
    REAL(int, "renameat", int, const char *, int, const char *);
    STAND_IN("rename", b, to)
    return real(a, from, b, to);
}

int renameat2(int a, const char *from, int b, const char *to, unsigned flags) {
    REAL(int, "renameat2", int, const char *, int, const char *, unsigned);
    STAND_IN("rename", b, to)
    return real(a, from, b, to, flags);
}

int link(const char *from, const char *to) {
    REAL(int, "link", const char *, const char *);
    STAND_IN("link", AT_FDCWD, to)
    return real(from, to);
}

int linkat(int a, const char *from, int b, const char *to, int flags) {
    REAL(int, "linkat", int, const char *, int, const char *, int);
    STAND_IN("link", b, to)
    return real(a, from, b, to, flags);
}

int unlink(const char *path) {
    REAL(int, "unlink", const char *);
    STAND_IN("unlink", AT_FDCWD, path)
    return real(path);
}

int unlinkat(int folder, const char *path, int flags) {
    REAL(int, "unlinkat", int, const char *, int);
    STAND_IN(flags & AT_REMOVEDIR ? "rmdir" : "unlink", folder, path)
    return real(folder, path, flags);
}

int rmdir(const char *path) {
    REAL(int, "rmdir", const char *);
    STAND_IN("rmdir", AT_FDCWD, path)
    return real(path);
}

int mkdir(const char *path, mode_t mode) {
    REAL(int, "mkdir", const char *, mode_t);
    STAND_IN("mkdir", AT_FDCWD, path)
    return real(path, mode);
}

int mkdirat(int folder, const char *path, mode_t mode) {
    REAL(int, "mkdirat", int, const char *, mode_t);
    STAND_IN("mkdir", folder, path)
    return real(folder, path, mode);
}

int chmod(const char *path, mode_t mode) {
    REAL(int, "chmod", const char *, mode_t);
    STAND_IN("chmod", AT_FDCWD, path)
    return real(path, mode);
}

int fchmod(int fd, mode_t mode) {
    REAL(int, "fchmod", int, mode_t);
    STAND_IN("chmod", fd, NULL)
    return real(fd, mode);
}
