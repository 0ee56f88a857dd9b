// tests/test_thread_pool.c - every item runs once, by threads that exist, and its writes are seen by the caller.
#include <errno.h>
#include <unistd.h>

#include "engine/cpu/thread_pool.h"
#include "engine/status.h"
#include "tests/check.h"

enum { MAX_ITEMS = 5000 };

struct work {
    int32_t threads;
    int32_t runs[MAX_ITEMS];    // plain: the pool must order the accesses
    int32_t strange_thread[MAX_ITEMS];
    int32_t slow_item;    // sleeps, so that others and the caller wait; -1: none
};

static void count(void *user, int32_t item, int32_t thread)
{
    struct work *work = user;
    if (item == work->slow_item) {
        usleep(2000);
    }
    work->runs[item]++;
    work->strange_thread[item] = thread < 0 || thread >= work->threads;
}

static void check_run(struct thread_pool *pool, struct work *work, int32_t n)
{
    memset(work->runs, 0, sizeof work->runs);
    work->threads = thread_pool_threads(pool);
    thread_pool_run(pool, count, work, n);
    for (int32_t i = 0; i < MAX_ITEMS; i++) {
        if (work->runs[i] != (i < n) || work->strange_thread[i]) {
            check_failed(__FILE__, __LINE__, "%d threads, %d items: item %d ran %d times", work->threads, n, i,
                         work->runs[i]);
            break;
        }
    }
}

int main(void)
{
    check_begin();
    static struct work work;
    struct thread_pool *pool;
    CHECK_MESSAGE(thread_pool_open(&pool, 0) == -EINVAL && !pool && status_text()[0], "a pool of no threads");
    thread_pool_close(NULL);
    CHECK_MESSAGE(thread_pool_processors() >= 1, "no processor");
    for (int32_t threads = 1; threads <= 9; threads++) {
        CHECK_MESSAGE(thread_pool_open(&pool, threads) == 0, "%d threads: %s", threads, status_text());
        CHECK_MESSAGE(thread_pool_threads(pool) == threads, "%d threads instead of %d", thread_pool_threads(pool),
                      threads);
        static const int32_t sizes[] = {0, 1, 2, 3, 7, 64, 1000, MAX_ITEMS};
        for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
            work.slow_item = -1;
            check_run(pool, &work, sizes[i]);
            work.slow_item = sizes[i] - 1;    // the caller, or all others, wait for one
            check_run(pool, &work, sizes[i]);
        }
        // Many short tasks in a row, and pauses long enough that all workers sleep.
        work.slow_item = -1;
        for (int32_t i = 0; i < 200; i++) {
            check_run(pool, &work, check_range(0, 40));
            if (i % 50 == 0) {
                usleep(1000);
            }
        }
        thread_pool_close(pool);
    }
    return check_end();
}
