// tests/fuzz/fuzz_devices.c - any bytes as a table of devices: parsed whole or refused, never a crash or a leak.
#include <stdint.h>
#include <stdlib.h>

#include "sim/device.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct device *table, found;
    int32_t n;
    if (device_table_parse(&table, &n, (const char *)data, size, "fuzz") == 0) {
        if (device_table_find(&found, table, n, table[n - 1].name) != 0 || !(device_bandwidth(&found, 1e6) > 0)) {
            abort();
        }
    }
    free(table);
    return 0;
}
