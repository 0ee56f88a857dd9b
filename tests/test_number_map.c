// tests/test_number_map.c - the map of numbers against an array that says the same.
#include "cupti/number_map.h"
#include "tests/check.h"

static void test_map(void)
{
    enum { KEYS = 3000 };
    struct number_map map = {0};
    static uint64_t values[KEYS];    // 0: not there
    uint64_t value, spread = check_random() | 1;
    uint32_t n = 0;
    CHECK(!number_map_get(&map, 1, &value));
    number_map_remove(&map, 1);
    for (int i = 0; i < 40000; i++) {
        uint32_t key = (uint32_t)(check_random() % KEYS);
        if (check_random() % 3) {
            n += values[key] == 0;
            values[key] = check_random() | 1;
            CHECK(number_map_put(&map, key * spread, values[key]) == 0);
        } else {
            n -= values[key] != 0;
            values[key] = 0;
            number_map_remove(&map, key * spread);
        }
    }
    CHECK(map.n == n);
    for (uint32_t key = 0; key < KEYS; key++) {
        bool there = number_map_get(&map, key * spread, &value);
        CHECK(there == (values[key] != 0) && (!there || value == values[key]));
    }
    number_map_clear(&map);
    CHECK(map.n == 0 && !number_map_get(&map, 5 * spread, &value));
    number_map_free(&map);
}

int main(void)
{
    check_begin();
    test_map();
    return check_end();
}
