/* Makes the disk misbehave for one process: loaded with LD_PRELOAD, steered from inside by the exported io_faults_*.

   Every call that opens, reads, writes, syncs, names or sizes something below the watched folder is numbered. The N-th
   can be made to fail, once or from then on; a write can be made short; a sync can be made slow, or left out. In trace
   mode every call that succeeded is appended to a log, with its bytes, from which tests rebuild what a power cut may
   leave on the disk (see tests/fakes/power_cuts.py for the format).

   The shim asks the kernel itself (64-bit Linux), so it needs nothing of the C library that it stands in front of.
   Calls on paths elsewhere, and all calls before io_faults_watch, pass through untouched and uncounted. */
#define _GNU_SOURCE
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
#include <sys/syscall.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

/* Kinds of calls; tests/fakes/io_faults.py has the same numbers. */
enum {
    OPEN = 1, OPEN_TO_READ = 2, WRITE = 4, SYNC = 8, NAME = 16, UNLINK = 32, MKDIR = 64, RESIZE = 128, CHMOD = 256,
    READ = 512,
};
/* What happens to the N-th call. */
enum { FAIL = 1, SHORT = 2, SHORT_THEN_FAIL = 3 };

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char root[PATH_MAX];
static size_t root_length;
static int counted_kinds;
static long count, hits;
static int calls_log = -1, trace_log = -1;

static long nth;
static int effect, error_number, lasting_kinds, same_part_only;
static int active;
static char active_part[PATH_MAX];
static char first_hit[PATH_MAX + 64];

static long slow_milliseconds;
static char slow_below[PATH_MAX];
static int leave_out_syncs;

/* ---- whose path ---------------------------------------------------------------------------------------------------- */

static int is_below(const char *path, const char *folder, size_t length) {
    return length && !strncmp(path, folder, length) && (path[length] == '/' || path[length] == 0);
}

static int of_descriptor(int fd, char *out) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    int kept = errno;
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, out, PATH_MAX - 1);
    errno = kept;
    out[length < 0 ? 0 : length] = 0;
    return length > 0;
}

static int watched_descriptor(int fd, char *out) {
    return root_length && of_descriptor(fd, out) && is_below(out, root, root_length);
}

static int watched_path(int folder, const char *path, char *out) {
    if (!root_length || !path) return 0;
    if (path[0] == '/') {
        snprintf(out, PATH_MAX, "%s", path);
    } else {
        char base[PATH_MAX];
        if (folder == AT_FDCWD) {
            if (syscall(SYS_getcwd, base, sizeof base) < 0) return 0;
        } else if (!of_descriptor(folder, base)) {
            return 0;
        }
        if ((size_t)snprintf(out, PATH_MAX, "%s/%s", base, path) >= PATH_MAX) return 0;
    }
    return is_below(out, root, root_length);
}

/* First folder below the watched one: "state", "output"; each stands for one disk. */
static void part_of(const char *path, char *out) {
    const char *start = path + root_length;
    while (*start == '/') start++;
    size_t length = strcspn(start, "/");
    memcpy(out, start, length);
    out[length] = 0;
}

/* ---- the fault ------------------------------------------------------------------------------------------------------ */

static void put(int fd, const char *bytes, size_t length) {
    while (length) {
        long done = syscall(SYS_write, fd, bytes, length);
        if (done <= 0) abort();
        bytes += done;
        length -= (size_t)done;
    }
}

static void note(int fd, const char *format, ...) {
    char line[3 * PATH_MAX];
    va_list list;
    va_start(list, format);
    int length = vsnprintf(line, sizeof line, format, list);
    va_end(list);
    put(fd, line, (size_t)length);
}

/* Counts one call; returns FAIL, SHORT or 0. With FAIL, errno is set. */
static int meets(int kind, const char *call, const char *path) {
    int result = 0;
    pthread_mutex_lock(&lock);
    if (kind & counted_kinds) {
        char part[PATH_MAX];
        part_of(path, part);
        count++;
        if (calls_log >= 0) note(calls_log, "%ld\t%d\t%s\t%s\n", count, kind, call, path + root_length);
        if (nth && count == nth) {
            snprintf(first_hit, sizeof first_hit, "%ld %s %s", count, call, path + root_length);
            snprintf(active_part, sizeof active_part, "%s", part);
            result = effect == FAIL ? FAIL : SHORT;
            active = lasting_kinds != 0;
        } else if (active && (kind & lasting_kinds) && (!same_part_only || !strcmp(part, active_part))) {
            result = effect == SHORT ? SHORT : FAIL;
        }
        if (result) hits++;
    }
    pthread_mutex_unlock(&lock);
    if (result == FAIL) errno = error_number;
    return result;
}

/* ---- steering ------------------------------------------------------------------------------------------------------- */

void io_faults_watch(const char *folder, int kinds) {
    pthread_mutex_lock(&lock);
    snprintf(root, sizeof root, "%s", folder);
    root_length = strlen(root);
    counted_kinds = kinds;
    count = hits = nth = 0;
    active = 0;
    first_hit[0] = 0;
    pthread_mutex_unlock(&lock);
}

/* kinds: those that go on failing after the N-th; 0 for once. part_only: of the same disk (first folder) only. */
void io_faults_arm(long n, int what, int error, int kinds, int part_only) {
    pthread_mutex_lock(&lock);
    nth = n;
    effect = what;
    error_number = error;
    lasting_kinds = kinds;
    same_part_only = part_only;
    active = 0;
    pthread_mutex_unlock(&lock);
}

void io_faults_lift(void) {
    pthread_mutex_lock(&lock);
    nth = 0;
    active = 0;
    slow_milliseconds = 0;
    pthread_mutex_unlock(&lock);
}

/* While paused, calls pass through as if nothing were watched: for what others than the process under test do.
   Pauses may lie within one another. */
void io_faults_pause(int whether) {
    static int depth;
    depth += whether ? 1 : -1;
    root_length = depth ? 0 : strlen(root);
}

long io_faults_count(void) { return count; }
long io_faults_hits(void) { return hits; }
const char *io_faults_first_hit(void) { return first_hit; }

void io_faults_slow_syncs(const char *folder, long milliseconds) {
    snprintf(slow_below, sizeof slow_below, "%s", folder);
    slow_milliseconds = milliseconds;
}

void io_faults_leave_out_syncs(int whether) { leave_out_syncs = whether; }

static int a_log(const char *path) {
    if (!path) return -1;
    long fd = syscall(SYS_openat, AT_FDCWD, path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
    if (fd < 0) abort();
    return (int)fd;
}

void io_faults_log_calls(const char *path) {
    if (calls_log >= 0) syscall(SYS_close, calls_log);
    calls_log = a_log(path);
}

void io_faults_trace(const char *path) {
    if (trace_log >= 0) syscall(SYS_close, trace_log);
    trace_log = a_log(path);
}

void io_faults_mark(const char *text) {
    pthread_mutex_lock(&lock);
    if (trace_log >= 0) note(trace_log, "K\t%s\n", text);
    pthread_mutex_unlock(&lock);
}

/* ---- the trace ------------------------------------------------------------------------------------------------------ */

static unsigned long inode_of(int fd) {
    struct stat found;
    return fstat(fd, &found) ? 0 : (unsigned long)found.st_ino;
}

static int is_there(const char *path) {
    struct stat found;
    int kept = errno, there = !lstat(path, &found);
    errno = kept;
    return there;
}

static void trace_write(int fd, const char *bytes, size_t length, off_t offset) {
    if (trace_log < 0) return;
    pthread_mutex_lock(&lock);
    note(trace_log, "W\t%lu\t%lld\t%zu\n", inode_of(fd), (long long)offset, length);
    put(trace_log, bytes, length);
    put(trace_log, "\n", 1);
    pthread_mutex_unlock(&lock);
}

#define TRACE(...)                                                                                                     \
    do {                                                                                                               \
        if (trace_log >= 0) {                                                                                          \
            int kept_errno = errno;                                                                                    \
            pthread_mutex_lock(&lock);                                                                                 \
            note(trace_log, __VA_ARGS__);                                                                              \
            pthread_mutex_unlock(&lock);                                                                               \
            errno = kept_errno;                                                                                        \
        }                                                                                                              \
    } while (0)

/* ---- open ----------------------------------------------------------------------------------------------------------- */

static int opened(const char *call, int folder, const char *path, int flags, mode_t mode) {
    char name[PATH_MAX];
    int watched = watched_path(folder, path, name);
    int writes = (flags & O_ACCMODE) != O_RDONLY || (flags & (O_CREAT | O_TRUNC));
    int before = 1;
    if (watched) {
        if (meets(writes ? OPEN : OPEN_TO_READ, call, name) == FAIL) return -1;
        if (trace_log >= 0 && (flags & O_CREAT)) before = is_there(name);
    }
    int fd = (int)syscall(SYS_openat, folder, path, flags | O_LARGEFILE, mode);
    if (watched && fd >= 0 && trace_log >= 0) {
        if (!before) TRACE("C\t%lu\t%o\t%s\n", inode_of(fd), mode, name);
        else if (flags & O_TRUNC) TRACE("T\t%lu\t0\n", inode_of(fd));
    }
    return fd;
}

#define MODE_ARGUMENT                                                                                                  \
    mode_t mode = 0;                                                                                                   \
    if (flags & (O_CREAT | __O_TMPFILE)) {                                                                             \
        va_list list;                                                                                                  \
        va_start(list, flags);                                                                                         \
        mode = va_arg(list, mode_t);                                                                                   \
        va_end(list);                                                                                                  \
    }

int open(const char *path, int flags, ...) { MODE_ARGUMENT return opened("open", AT_FDCWD, path, flags, mode); }
int open64(const char *path, int flags, ...) { MODE_ARGUMENT return opened("open", AT_FDCWD, path, flags, mode); }
int openat(int folder, const char *path, int flags, ...) {
    MODE_ARGUMENT return opened("openat", folder, path, flags, mode);
}
int openat64(int folder, const char *path, int flags, ...) {
    MODE_ARGUMENT return opened("openat", folder, path, flags, mode);
}
int __open_2(const char *path, int flags) { return opened("open", AT_FDCWD, path, flags, 0); }
int __open64_2(const char *path, int flags) { return opened("open", AT_FDCWD, path, flags, 0); }
int __openat_2(int folder, const char *path, int flags) { return opened("openat", folder, path, flags, 0); }
int __openat64_2(int folder, const char *path, int flags) { return opened("openat", folder, path, flags, 0); }
int creat(const char *path, mode_t mode) {
    return opened("creat", AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}
int creat64(const char *path, mode_t mode) {
    return opened("creat", AT_FDCWD, path, O_CREAT | O_WRONLY | O_TRUNC, mode);
}

/* ---- read ----------------------------------------------------------------------------------------------------------- */

static int read_fails(const char *call, int fd) {
    char name[PATH_MAX];
    return (counted_kinds & READ) && watched_descriptor(fd, name) && meets(READ, call, name) == FAIL;
}

ssize_t read(int fd, void *to, size_t length) {
    if (read_fails("read", fd)) return -1;
    return syscall(SYS_read, fd, to, length);
}
ssize_t pread(int fd, void *to, size_t length, off_t offset) {
    if (read_fails("pread", fd)) return -1;
    return syscall(SYS_pread64, fd, to, length, offset);
}
ssize_t pread64(int fd, void *to, size_t length, off_t offset) { return pread(fd, to, length, offset); }

/* ---- write ---------------------------------------------------------------------------------------------------------- */

/* offset -1: at the descriptor's own position. */
static ssize_t written(const char *call, int fd, const void *bytes, size_t length, off_t offset) {
    char name[PATH_MAX];
    int watched = watched_descriptor(fd, name);
    if (watched) {
        int what = meets(WRITE, call, name);
        if (what == FAIL) return -1;
        if (what == SHORT && length > 1) length /= 2;
    }
    ssize_t done = offset < 0 ? syscall(SYS_write, fd, bytes, length) : syscall(SYS_pwrite64, fd, bytes, length, offset);
    if (watched && done > 0 && trace_log >= 0) {
        off_t at = offset < 0 ? lseek(fd, 0, SEEK_CUR) - done : offset;
        trace_write(fd, bytes, (size_t)done, at);
    }
    return done;
}

static ssize_t written_pieces(const char *call, int fd, const struct iovec *pieces, int number, off_t offset) {
    size_t length = 0;
    for (int i = 0; i < number; i++) length += pieces[i].iov_len;
    char *whole = malloc(length ? length : 1), *at = whole;
    if (!whole) { errno = ENOMEM; return -1; }
    for (int i = 0; i < number; i++) {
        memcpy(at, pieces[i].iov_base, pieces[i].iov_len);
        at += pieces[i].iov_len;
    }
    ssize_t done = written(call, fd, whole, length, offset);
    free(whole);
    return done;
}

ssize_t write(int fd, const void *bytes, size_t length) { return written("write", fd, bytes, length, -1); }
ssize_t pwrite(int fd, const void *bytes, size_t length, off_t offset) {
    return written("pwrite", fd, bytes, length, offset);
}
ssize_t pwrite64(int fd, const void *bytes, size_t length, off_t offset) {
    return written("pwrite", fd, bytes, length, offset);
}
ssize_t writev(int fd, const struct iovec *pieces, int number) {
    return written_pieces("writev", fd, pieces, number, -1);
}
ssize_t pwritev(int fd, const struct iovec *pieces, int number, off_t offset) {
    return written_pieces("pwritev", fd, pieces, number, offset);
}
ssize_t pwritev64(int fd, const struct iovec *pieces, int number, off_t offset) {
    return written_pieces("pwritev", fd, pieces, number, offset);
}

/* ---- sync ----------------------------------------------------------------------------------------------------------- */

static int synced(const char *call, int fd, long number) {
    char name[PATH_MAX];
    if (!watched_descriptor(fd, name)) return (int)syscall(number, fd);
    if (meets(SYNC, call, name) == FAIL) return -1;
    if (slow_milliseconds && is_below(name, slow_below, strlen(slow_below))) {
        struct timespec wait = {slow_milliseconds / 1000, slow_milliseconds % 1000 * 1000000};
        while (nanosleep(&wait, &wait) && errno == EINTR) continue;
    }
    int done = leave_out_syncs ? 0 : (int)syscall(number, fd);
    struct stat found;
    if (!done && trace_log >= 0 && !fstat(fd, &found)) {
        if (S_ISDIR(found.st_mode)) TRACE("D\t%s\n", name);
        else TRACE("S\t%lu\n", (unsigned long)found.st_ino);
    }
    return done;
}

int fsync(int fd) { return synced("fsync", fd, SYS_fsync); }
int fdatasync(int fd) { return synced("fdatasync", fd, SYS_fdatasync); }

/* ---- names ---------------------------------------------------------------------------------------------------------- */

static int renamed(const char *call, int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    char old[PATH_MAX], new[PATH_MAX];
    int watched = watched_path(from_folder, from, old) & watched_path(to_folder, to, new);
    if (watched && meets(NAME, call, new) == FAIL) return -1;
    int done = (int)syscall(SYS_renameat2, from_folder, from, to_folder, to, flags);
    if (watched && !done) TRACE("R\t%s\t%s\n", old, new);
    return done;
}
int rename(const char *from, const char *to) { return renamed("rename", AT_FDCWD, from, AT_FDCWD, to, 0); }
int renameat(int from_folder, const char *from, int to_folder, const char *to) {
    return renamed("rename", from_folder, from, to_folder, to, 0);
}
int renameat2(int from_folder, const char *from, int to_folder, const char *to, unsigned flags) {
    return renamed("rename", from_folder, from, to_folder, to, flags);
}

int linkat(int from_folder, const char *from, int to_folder, const char *to, int flags) {
    char old[PATH_MAX], new[PATH_MAX];
    int watched = watched_path(from_folder, from, old) & watched_path(to_folder, to, new);
    if (watched && meets(NAME, "link", new) == FAIL) return -1;
    int done = (int)syscall(SYS_linkat, from_folder, from, to_folder, to, flags);
    if (watched && !done) TRACE("L\t%s\t%s\n", old, new);
    return done;
}
int link(const char *from, const char *to) { return linkat(AT_FDCWD, from, AT_FDCWD, to, 0); }

int unlinkat(int folder, const char *path, int flags) {
    char name[PATH_MAX];
    int watched = watched_path(folder, path, name);
    if (watched && meets(UNLINK, flags & AT_REMOVEDIR ? "rmdir" : "unlink", name) == FAIL) return -1;
    int done = (int)syscall(SYS_unlinkat, folder, path, flags);
    if (watched && !done) TRACE("U\t%s\n", name);
    return done;
}
int unlink(const char *path) { return unlinkat(AT_FDCWD, path, 0); }
int rmdir(const char *path) { return unlinkat(AT_FDCWD, path, AT_REMOVEDIR); }

int mkdirat(int folder, const char *path, mode_t mode) {
    char name[PATH_MAX];
    int watched = watched_path(folder, path, name);
    if (watched && meets(MKDIR, "mkdir", name) == FAIL) return -1;
    int done = (int)syscall(SYS_mkdirat, folder, path, mode);
    if (watched && !done) TRACE("M\t%s\n", name);
    return done;
}
int mkdir(const char *path, mode_t mode) { return mkdirat(AT_FDCWD, path, mode); }

/* ---- size and mode -------------------------------------------------------------------------------------------------- */

int ftruncate(int fd, off_t size) {
    char name[PATH_MAX];
    int watched = watched_descriptor(fd, name);
    if (watched && meets(RESIZE, "ftruncate", name) == FAIL) return -1;
    int done = (int)syscall(SYS_ftruncate, fd, size);
    if (watched && !done) TRACE("T\t%lu\t%lld\n", inode_of(fd), (long long)size);
    return done;
}
int ftruncate64(int fd, off_t size) { return ftruncate(fd, size); }

int fallocate(int fd, int mode, off_t offset, off_t length) {
    char name[PATH_MAX];
    struct stat before, after;
    int watched = watched_descriptor(fd, name);
    if (watched && meets(RESIZE, "fallocate", name) == FAIL) return -1;
    int known = !fstat(fd, &before);
    int done = (int)syscall(SYS_fallocate, fd, mode, offset, length);
    if (watched && !done && known && !fstat(fd, &after) && after.st_size != before.st_size)
        TRACE("T\t%lu\t%lld\n", (unsigned long)after.st_ino, (long long)after.st_size);
    return done;
}
int fallocate64(int fd, int mode, off_t offset, off_t length) { return fallocate(fd, mode, offset, length); }

int posix_fallocate(int fd, off_t offset, off_t length) {
    int kept = errno;
    int failed = fallocate(fd, 0, offset, length) ? errno : 0; /* the error is returned, errno is left alone */
    errno = kept;
    return failed;
}
int posix_fallocate64(int fd, off_t offset, off_t length) { return posix_fallocate(fd, offset, length); }

int fchmod(int fd, mode_t mode) {
    char name[PATH_MAX];
    int watched = watched_descriptor(fd, name);
    if (watched && meets(CHMOD, "fchmod", name) == FAIL) return -1;
    int done = (int)syscall(SYS_fchmod, fd, mode);
    if (watched && !done) TRACE("H\t%lu\t%o\n", inode_of(fd), mode);
    return done;
}
int fchmodat(int folder, const char *path, mode_t mode, int flags) {
    char name[PATH_MAX];
    if (watched_path(folder, path, name) && meets(CHMOD, "chmod", name) == FAIL) return -1;
    return (int)syscall(SYS_fchmodat, folder, path, mode, flags);
}
int chmod(const char *path, mode_t mode) { return fchmodat(AT_FDCWD, path, mode, 0); }
