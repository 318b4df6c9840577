/* Refuses processes and threads, as a limit on them does, while a mapped file says so; counts what it refused.
   Loaded with LD_PRELOAD: the process that loaded it is the first, what is forked from it are the others. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

enum { FORKS_OF_THE_FIRST = 1, FORKS_OF_OTHERS = 2, THREADS_OF_OTHERS = 4 };

static volatile struct { uint32_t refused_kinds, refused_count; } *told;
static pid_t first;
static pid_t (*real_fork)(void);
static int (*real_pthread_create)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);

__attribute__((constructor)) static void begin(void) {
    real_fork = (pid_t (*)(void))dlsym(RTLD_NEXT, "fork");
    real_pthread_create = (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))dlsym(
        RTLD_NEXT, "pthread_create");
    first = getpid();
    const char *path = getenv("FORK_FAULTS_FILE");
    int file = path ? open(path, O_RDWR | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *map = mmap(NULL, sizeof *told, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    close(file);
    if (map != MAP_FAILED) told = map;
}

static int is_refused(uint32_t kind) {
    if (!told || !(told->refused_kinds & kind)) return 0;
    __atomic_add_fetch(&told->refused_count, 1, __ATOMIC_RELAXED);
    return 1;
}

pid_t fork(void) {
    if (is_refused(getpid() == first ? FORKS_OF_THE_FIRST : FORKS_OF_OTHERS)) {
        errno = EAGAIN;
        return -1;
    }
    return real_fork();
}

int pthread_create(pthread_t *thread, const pthread_attr_t *wishes, void *(*body)(void *), void *word) {
    if (getpid() != first && is_refused(THREADS_OF_OTHERS)) return EAGAIN;
    return real_pthread_create(thread, wishes, body, word);
}
