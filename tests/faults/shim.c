/* Has one system call that changes files below a folder fail, or kill the process that makes it.
 *
 * Loaded by LD_PRELOAD in front of libc. Environment: FAULT_FOLDER, below which calls count;
 * FAULT_STATE, a file of two 64-bit numbers that all processes share: calls so far, and whether
 * counting has begun, which it does with the first call named FAULT_FROM; FAULT_AT, the number of
 * the call that is to fail (0: none); FAULT_ERRNO, how (0: by SIGKILL).
 */

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <unistd.h>

static volatile uint64_t * state(void) {
    static volatile uint64_t * shared = NULL;
    if (shared == NULL) {
        int fd = (int) syscall(SYS_openat, AT_FDCWD, getenv("FAULT_STATE"), O_RDWR, 0);
        shared = mmap(NULL, 16, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        syscall(SYS_close, fd);
    }
    return shared;
}

static int is_below(const char * path) {
    const char * folder = getenv("FAULT_FOLDER");
    return folder != NULL && strncmp(path, folder, strlen(folder)) == 0;
}

static int concerns_fd(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (n < 0) {
        return 0;
    }
    path[n] = 0;
    return is_below(path);
}

static int concerns(int folder, const char * path) {
    return path[0] == '/' ? is_below(path) : folder != AT_FDCWD && concerns_fd(folder);
}

/* Is it this call's turn to fail? errno is set then. */
static int fails(const char * name) {
    volatile uint64_t * shared = state();
    const char * from = getenv("FAULT_FROM");
    if (!shared[1]) {
        if (from != NULL && strcmp(from, name) != 0) {
            return 0;
        }
        shared[1] = 1;
    }
    uint64_t number = __sync_add_and_fetch(&shared[0], 1);
    if (number != (uint64_t) atoll(getenv("FAULT_AT"))) {
        return 0;
    }
    int error = atoi(getenv("FAULT_ERRNO"));
    if (error == 0) {
        syscall(SYS_kill, getpid(), SIGKILL);
    }
    errno = error;
    return 1;
}

#define REAL(name) ((__typeof__(&name)) dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void * data, size_t n) {
    return concerns_fd(fd) && fails("write") ? -1 : REAL(write)(fd, data, n);
}

ssize_t pwrite64(int fd, const void * data, size_t n, off64_t at) {
    return concerns_fd(fd) && fails("pwrite") ? -1 : REAL(pwrite64)(fd, data, n, at);
}

ssize_t copy_file_range(int in, off64_t * from, int out, off64_t * to, size_t n, unsigned flags) {
    return concerns_fd(out) && fails("copy_file_range")
        ? -1 : REAL(copy_file_range)(in, from, out, to, n, flags);
}

ssize_t sendfile64(int out, int in, off64_t * from, size_t n) {
    return concerns_fd(out) && fails("sendfile") ? -1 : REAL(sendfile64)(out, in, from, n);
}

int ftruncate64(int fd, off64_t size) {
    return concerns_fd(fd) && fails("ftruncate") ? -1 : REAL(ftruncate64)(fd, size);
}

int fsync(int fd) {
    return concerns_fd(fd) && fails("fsync") ? -1 : REAL(fsync)(fd);
}

int fchmod(int fd, mode_t mode) {
    return concerns_fd(fd) && fails("fchmod") ? -1 : REAL(fchmod)(fd, mode);
}

int link(const char * old, const char * new) {
    return concerns(AT_FDCWD, new) && fails("link") ? -1 : REAL(link)(old, new);
}

int linkat(int from, const char * old, int to, const char * new, int flags) {
    return concerns(to, new) && fails("link") ? -1 : REAL(linkat)(from, old, to, new, flags);
}

int rename(const char * old, const char * new) {
    return concerns(AT_FDCWD, new) && fails("rename") ? -1 : REAL(rename)(old, new);
}

int renameat(int from, const char * old, int to, const char * new) {
    return concerns(to, new) && fails("rename") ? -1 : REAL(renameat)(from, old, to, new);
}

int unlink(const char * path) {
    return concerns(AT_FDCWD, path) && fails("unlink") ? -1 : REAL(unlink)(path);
}

int unlinkat(int folder, const char * path, int flags) {
    return concerns(folder, path) && fails("unlink") ? -1 : REAL(unlinkat)(folder, path, flags);
}

int mkdir(const char * path, mode_t mode) {
    return concerns(AT_FDCWD, path) && fails("mkdir") ? -1 : REAL(mkdir)(path, mode);
}

/* Only what makes a file: what is read may be read. */
static int makes(int flags) {
    return (flags & O_CREAT) || (flags & O_TMPFILE) == O_TMPFILE;
}

int open64(const char * path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = makes(flags) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return makes(flags) && concerns(AT_FDCWD, path) && fails("open")
        ? -1 : REAL(open64)(path, flags, mode);
}

int openat64(int folder, const char * path, int flags, ...) {
    va_list more;
    va_start(more, flags);
    mode_t mode = makes(flags) ? va_arg(more, mode_t) : 0;
    va_end(more);
    return makes(flags) && concerns(folder, path) && fails("open")
        ? -1 : REAL(openat64)(folder, path, flags, mode);
}
