// tests/test_top_orders.c - what the screen asks of the engine's thread, without either.
#include "cli/top_live_internal.h"
#include "tests/check.h"

// A failed order is taken back, one given while it was tried is not.
static void check_taken_back(void)
{
    struct orders good = {.only = 1, .batch = 2, .context = 100, .top_k = 64, .index_every = 2, .device = "cpu"};
    struct orders failed = good, now;
    failed.batch = 1024;
    strcpy(failed.device, "cuda");
    now = failed;
    orders_take_back(&now, &failed, &good);
    CHECK(now.batch == 2 && strcmp(now.device, "cpu") == 0);
    now = failed;
    now.batch = 512;
    now.top_k = 128;
    now.only = 0;
    orders_take_back(&now, &failed, &good);
    CHECK_MESSAGE(now.batch == 512 && now.top_k == 128 && now.only == 0, "batch %d and k %d: not as ordered last",
                  now.batch, now.top_k);
    CHECK(now.context == 100 && now.index_every == 2 && strcmp(now.device, "cpu") == 0);
    now = failed;
    strcpy(now.device, "reference");
    now.context = 50;
    now.index_every = 0;
    orders_take_back(&now, &failed, &good);
    CHECK(now.batch == 2 && now.context == 50 && now.index_every == 0 && strcmp(now.device, "reference") == 0);
}

int main(void)
{
    check_begin();
    check_taken_back();
    return check_end();
}
