// sim/affinity.c - see affinity.h.
//
// Prefixes and blocks are both names in one table: a prefix stands for itself and decides alone.
#include "sim/affinity.h"

#include <errno.h>
#include <stdlib.h>

#include "engine/status.h"

struct place {
    uint64_t name;
    int32_t replica;    // + 1; 0: nobody is here
};

// Open addressing, at most half full.
struct places {
    struct place *at;    // [mask + 1]
    uint64_t mask;
};

static struct place *place_of(const struct places *places, uint64_t name)
{
    uint64_t i = name * 0x9e3779b97f4a7c15u >> 20 & places->mask;
    while (places->at[i].replica && places->at[i].name != name) {
        i = (i + 1) & places->mask;
    }
    return &places->at[i];
}

// The replica that has the longest part of the request, if that is enough of it; -1: in turn.
static int32_t home_of(const struct places *places, const struct workload *workload, const struct workload_request *r)
{
    int32_t home = -1, seen = 0;
    for (int32_t b = 0; b < r->n_blocks; b++) {
        const struct place *place = place_of(places, workload->blocks[r->first_block + b]);
        if (!place->replica) {
            break;
        }
        home = place->replica - 1;
        seen++;
    }
    if (r->n_blocks > 0) {
        return 2 * (int64_t)seen * workload->block_tokens >= r->prompt_tokens ? home : -1;
    }
    return r->prefix_id >= 0 ? place_of(places, (uint64_t)r->prefix_id)->replica - 1 : -1;
}

static void remember(struct places *places, const struct workload *workload, const struct workload_request *r,
                     int32_t replica)
{
    for (int32_t b = 0; b < r->n_blocks; b++) {
        uint64_t name = workload->blocks[r->first_block + b];
        *place_of(places, name) = (struct place){name, replica + 1};
    }
    if (r->n_blocks == 0 && r->prefix_id >= 0) {
        *place_of(places, (uint64_t)r->prefix_id) = (struct place){(uint64_t)r->prefix_id, replica + 1};
    }
}

int affinity_route(int32_t *replica, const struct workload *workload, int32_t n_replicas)
{
    struct places places = {.mask = 1};
    int64_t turn = 0;
    while (places.mask < 2 * (uint64_t)(workload->n + workload->n_blocks)) {
        places.mask *= 2;
    }
    places.mask--;
    places.at = calloc(places.mask + 1, sizeof *places.at);
    if (!places.at) {
        return status_fail(-ENOMEM, "no memory for the prefixes of %lld requests", (long long)workload->n);
    }
    for (int64_t i = 0; i < workload->n; i++) {
        int32_t home = home_of(&places, workload, &workload->requests[i]);
        replica[i] = home >= 0 ? home : (int32_t)(turn++ % n_replicas);
        remember(&places, workload, &workload->requests[i], replica[i]);
    }
    free(places.at);
    return 0;
}
