// engine/cpu/thread_pool.h - a fixed set of threads that share the items of one task at a time.
//
// Items are claimed in ascending order by whoever is free, the caller included, so that a thread which loses its
// processor delays only the item it holds. Whoever computes an item must leave the same result: then runs are
// repeatable, whatever the number of threads. Workers spin for some microseconds between tasks, then sleep.
// Driven by one thread at a time.
#pragma once

#include <stdint.h>

struct thread_pool;

// `thread` is in [0, threads): 0 is the caller.
typedef void thread_pool_task(void *user, int32_t item, int32_t thread);

// `threads` counts the caller; at least 1. Workers are kept to one processor each where the process may use that many.
int thread_pool_open(struct thread_pool **out, int32_t threads);
void thread_pool_close(struct thread_pool *pool);    // NULL-safe

int32_t thread_pool_threads(const struct thread_pool *pool);

// Runs task(user, item, thread) for every item of [0, n_items) and returns when all are done. What the items wrote is
// then visible to the caller. n_items may be 0.
void thread_pool_run(struct thread_pool *pool, thread_pool_task *task, void *user, int32_t n_items);

// Processors that this process may use.
int32_t thread_pool_processors(void);
