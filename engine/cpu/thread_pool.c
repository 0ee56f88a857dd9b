// engine/cpu/thread_pool.c - claiming by one atomic counter, sleeping by one condition variable.
//
// `unclaimed` counts down: a worker that takes it from r to r - 1 owns item n_items - r. The task's fields are plain:
// they are written before `unclaimed` rises from 0, and cannot change while an item is claimed but not done. A worker
// that comes late finds 0 and touches nothing. Sleeping follows one rule on both sides: announce yourself, then look
// again; the other side changes the state, then looks for announcements.
#include "engine/cpu/thread_pool.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>
#include <time.h>

#include "engine/status.h"

// How long a thread spins before it sleeps: longer than the calling thread needs between two operators of a step, short
// enough that an idle engine costs nothing to speak of.
enum { SPIN_NS = 30000, SPINS_PER_LOOK = 64, MAX_THREADS = 1024 };

struct worker {
    struct thread_pool *pool;
    pthread_t thread;
    int32_t index;
};

struct thread_pool {
    struct worker *workers;    // [threads - 1]
    int32_t threads;
    thread_pool_task *task;
    void *user;
    int32_t n_items;
    // The counters that all threads hammer, each on a cache line of its own.
    _Alignas(64) atomic_int unclaimed;
    _Alignas(64) atomic_int done;
    _Alignas(64) atomic_int sleepers;
    atomic_bool caller_sleeps, stop;
    pthread_mutex_t mutex;
    pthread_cond_t wake, finished;
};

static int64_t now_ns(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (int64_t)time.tv_sec * 1000000000 + time.tv_nsec;
}

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

// Spins until *counter is (or, if `until_other`, is not) `value`; false when the time is over.
static bool spin(atomic_int *counter, int value, bool until_other)
{
    int64_t end = now_ns() + SPIN_NS;
    do {
        for (int i = 0; i < SPINS_PER_LOOK; i++) {
            if ((atomic_load_explicit(counter, memory_order_acquire) == value) != until_other) {
                return true;
            }
            relax();
        }
    } while (now_ns() < end);
    return false;
}

// Works until no item is left.
static void work(struct thread_pool *pool, int32_t thread)
{
    int left = atomic_load_explicit(&pool->unclaimed, memory_order_relaxed);
    while (left > 0) {
        if (!atomic_compare_exchange_weak_explicit(&pool->unclaimed, &left, left - 1, memory_order_acq_rel,
                                                   memory_order_relaxed)) {
            continue;
        }
        int32_t n_items = pool->n_items;
        pool->task(pool->user, n_items - left, thread);
        if (atomic_fetch_add(&pool->done, 1) + 1 == n_items && atomic_load(&pool->caller_sleeps)) {
            pthread_mutex_lock(&pool->mutex);
            pthread_cond_signal(&pool->finished);
            pthread_mutex_unlock(&pool->mutex);
        }
        left = atomic_load_explicit(&pool->unclaimed, memory_order_relaxed);
    }
}

static void *worker_main(void *argument)
{
    struct worker *worker = argument;
    struct thread_pool *pool = worker->pool;
    while (!atomic_load(&pool->stop)) {
        if (spin(&pool->unclaimed, 0, true)) {
            work(pool, worker->index);
            continue;
        }
        pthread_mutex_lock(&pool->mutex);
        atomic_fetch_add(&pool->sleepers, 1);
        while (atomic_load(&pool->unclaimed) == 0 && !atomic_load(&pool->stop)) {
            pthread_cond_wait(&pool->wake, &pool->mutex);
        }
        atomic_fetch_sub(&pool->sleepers, 1);
        pthread_mutex_unlock(&pool->mutex);
    }
    return NULL;
}

// The processors in order; the caller is expected on the first, and stays free to move.
static void pin(const struct worker *worker)
{
    cpu_set_t allowed, one;
    if (sched_getaffinity(0, sizeof allowed, &allowed) != 0 || CPU_COUNT(&allowed) < worker->pool->threads) {
        return;
    }
    int32_t place = 0;
    for (size_t processor = 0; processor < CPU_SETSIZE; processor++) {
        if (CPU_ISSET(processor, &allowed) && place++ == worker->index) {
            CPU_ZERO(&one);
            CPU_SET(processor, &one);
            pthread_setaffinity_np(worker->thread, sizeof one, &one);    // a refusal costs speed only
            return;
        }
    }
}

int32_t thread_pool_processors(void)
{
    cpu_set_t allowed;
    return sched_getaffinity(0, sizeof allowed, &allowed) == 0 ? CPU_COUNT(&allowed) : 1;
}

int thread_pool_open(struct thread_pool **out, int32_t threads)
{
    *out = NULL;
    if (threads < 1 || threads > MAX_THREADS) {
        return status_fail(-EINVAL, "%d threads: expected 1 to %d", threads, MAX_THREADS);
    }
    struct thread_pool *pool = aligned_alloc(_Alignof(struct thread_pool), sizeof *pool);
    struct worker *workers = calloc((size_t)threads, sizeof *workers);
    if (!pool || !workers) {
        free(pool);
        free(workers);
        return status_fail(-ENOMEM, "no memory for %d threads", threads);
    }
    *pool = (struct thread_pool){.workers = workers, .threads = 1};
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->wake, NULL);
    pthread_cond_init(&pool->finished, NULL);
    for (int32_t i = 1; i < threads; i++) {
        struct worker *worker = &workers[i - 1];
        *worker = (struct worker){.pool = pool, .index = i};
        int error = pthread_create(&worker->thread, NULL, worker_main, worker);
        if (error) {
            thread_pool_close(pool);
            return status_fail(-error, "cannot start thread %d of %d", i + 1, threads);
        }
        pool->threads = i + 1;
    }
    for (int32_t i = 1; i < threads; i++) {
        pin(&workers[i - 1]);
    }
    *out = pool;
    return 0;
}

void thread_pool_close(struct thread_pool *pool)
{
    if (!pool) {
        return;
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->stop, true);
    pthread_cond_broadcast(&pool->wake);
    pthread_mutex_unlock(&pool->mutex);
    for (int32_t i = 1; i < pool->threads; i++) {
        pthread_join(pool->workers[i - 1].thread, NULL);
    }
    pthread_cond_destroy(&pool->finished);
    pthread_cond_destroy(&pool->wake);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->workers);
    free(pool);
}

int32_t thread_pool_threads(const struct thread_pool *pool)
{
    return pool->threads;
}

static void wait_until_done(struct thread_pool *pool, int32_t n_items)
{
    if (atomic_load(&pool->done) == n_items || spin(&pool->done, n_items, false)) {
        return;
    }
    pthread_mutex_lock(&pool->mutex);
    atomic_store(&pool->caller_sleeps, true);
    while (atomic_load(&pool->done) != n_items) {
        pthread_cond_wait(&pool->finished, &pool->mutex);
    }
    atomic_store(&pool->caller_sleeps, false);
    pthread_mutex_unlock(&pool->mutex);
}

void thread_pool_run(struct thread_pool *pool, thread_pool_task *task, void *user, int32_t n_items)
{
    if (n_items <= 1 || pool->threads == 1) {
        for (int32_t i = 0; i < n_items; i++) {
            task(user, i, 0);
        }
        return;
    }
    pool->task = task;
    pool->user = user;
    pool->n_items = n_items;
    atomic_store(&pool->done, 0);
    atomic_store(&pool->unclaimed, n_items);
    if (atomic_load(&pool->sleepers) > 0) {
        pthread_mutex_lock(&pool->mutex);
        pthread_cond_broadcast(&pool->wake);
        pthread_mutex_unlock(&pool->mutex);
    }
    work(pool, 0);
    wait_until_done(pool, n_items);
}
