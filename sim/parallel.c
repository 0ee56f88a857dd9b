// sim/parallel.c - see parallel.h.
#include "sim/parallel.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "engine/status.h"

static bool divides(const struct model_shape *shape, int32_t ranks)
{
    bool latent = shape->mla.kv_lora_rank > 0;
    return shape->n_heads % ranks == 0 && (latent || shape->n_kv_heads % ranks == 0 || ranks % shape->n_kv_heads == 0);
}

static int refuse(const struct model_shape *shape, int32_t ranks)
{
    char list[128] = "";
    size_t length = 0;
    for (int32_t n = 1; n <= shape->n_heads && length < sizeof list - 8; n++) {
        if (divides(shape, n)) {
            length += (size_t)snprintf(list + length, sizeof list - length, "%s%d", n > 1 ? ", " : "", n);
        }
    }
    return status_fail(-EINVAL, "%d query and %d KV heads cannot be divided among %d devices: expected %s",
                       shape->n_heads, shape->n_kv_heads, ranks, list);
}

static int32_t share(int32_t size, int32_t ranks)
{
    return (size + ranks - 1) / ranks;
}

static void split_index(struct plan *out, const struct plan *plan)
{
    const struct model_shape *whole = &plan->shape, *part = &out->shape;
    if (plan->index.sets <= 1) {
        return;
    }
    int32_t heads_per_set = plan->index.heads / plan->index.sets;
    bool of_heads = plan->index.sets == whole->n_heads;
    out->index.sets = of_heads ? part->n_heads : plan->index.sets * part->n_kv_heads / whole->n_kv_heads;
    out->index.sets = out->index.sets > 0 ? out->index.sets : 1;
    out->index.heads = out->index.sets * heads_per_set;
}

int parallel_split(struct plan *plan_out, struct device *device_out, const struct plan *plan,
                   const struct device *device, int32_t ranks)
{
    if (ranks < 1 || ranks > PARALLEL_MAX_RANKS) {
        return status_fail(-EINVAL, "%d devices: expected 1 to %d", ranks, PARALLEL_MAX_RANKS);
    }
    if (!divides(&plan->shape, ranks)) {
        return refuse(&plan->shape, ranks);
    }
    if (ranks > 1 && !(device->link_bytes_per_s.value > 0)) {
        return status_fail(-EINVAL, "device %s: its link to others is unknown; name one in a file of devices",
                           device->name);
    }
    struct plan out = *plan;
    struct model_shape *shape = &out.shape;
    shape->n_heads /= ranks;
    shape->n_kv_heads = shape->n_kv_heads > ranks ? shape->n_kv_heads / ranks : 1;
    shape->ffn = share(shape->ffn, ranks);
    shape->vocab = share(shape->vocab, ranks);
    shape->moe.ffn = share(shape->moe.ffn, ranks);
    split_index(&out, plan);
    *device_out = *device;
    device_out->ranks = ranks;
    device_out->price_per_hour.value *= ranks;
    device_out->serving_power_w.value *= ranks;
    if (ranks == 1) {
        out = *plan;
    }
    *plan_out = out;
    return 0;
}
