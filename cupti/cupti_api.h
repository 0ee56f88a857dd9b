// cupti/cupti_api.h - our own declarations of what we use of CUPTI (NVIDIA's tracing interface, libcupti.so).
//
// The library is found at run time, so nothing here needs the CUDA toolkit. Layouts and numbers are CUPTI's binary
// interface: later versions append to records and lists, they do not change them. Where the toolkit's headers exist,
// cupti_api_check.c compares every field and number with them while compiling. Records are declared as far as they are
// read; those of one buffer are walked by cuptiActivityGetNextRecord, which knows their sizes.
#pragma once

#include <stddef.h>
#include <stdint.h>

enum cupti_result {
    CUPTI_OK = 0,
    CUPTI_NO_MORE = 12,           // CUPTI_ERROR_MAX_LIMIT_REACHED: a buffer's end
    CUPTI_NO_PRIVILEGE = 35,
    CUPTI_OTHER_SUBSCRIBER = 39,
};

enum cupti_kind {
    CUPTI_MEMCPY = 1,
    CUPTI_MEMSET = 2,
    CUPTI_DRIVER = 4,
    CUPTI_RUNTIME = 5,
    CUPTI_KERNEL = 10,            // CONCURRENT_KERNEL: the other kind runs kernels one by one
    CUPTI_OVERHEAD = 17,
    CUPTI_EXTERNAL = 39,
    CUPTI_GRAPH = 51,             // one record per launched graph, instead of one per node
};

// The beginning of each record says its kind.
struct cupti_kernel {
    uint32_t kind;
    uint8_t cache, shared_config;
    uint16_t registers_per_thread;
    uint32_t partitioned_requested, partitioned_executed;
    uint64_t start, end, completed;
    uint32_t device, context, stream;
    int32_t grid[3], block[3];
    int32_t static_shared, dynamic_shared;
    uint32_t local_per_thread, local_total, correlation;
    int64_t grid_id;
    const char *name;             // mangled; the library's
    void *reserved;
    uint64_t queued, submitted;
    uint8_t launch_type, carveout_requested, carveout, padding;
    uint32_t shared_executed;
    uint64_t node;                // of a graph; 0: launched by itself
};

struct cupti_memcpy {
    uint32_t kind;
    uint8_t copy_kind, from, to, flags;
    uint64_t bytes, start, end;
    uint32_t device, context, stream, correlation, runtime_correlation, pad;
    void *reserved;
    uint64_t node;
};

struct cupti_memset {
    uint32_t kind, value;
    uint64_t bytes, start, end;
    uint32_t device, context, stream, correlation;
    uint16_t flags, memory;
    uint32_t pad;
    void *reserved;
    uint64_t node;
};

struct cupti_graph {
    uint32_t kind, correlation;
    uint64_t start, end;
    uint32_t device, graph, context, stream;
};

struct cupti_call {
    uint32_t kind, id;            // which function
    uint64_t start, end;
    uint32_t process, thread, correlation, result;
};

enum { CUPTI_EXTERNAL_OURS = 3 };    // CUSTOM0
struct cupti_external {
    uint32_t kind, external_kind;
    uint64_t id;
    uint32_t correlation, reserved;
};

struct cupti_overhead {
    uint32_t kind, what, object_kind, object[3];
    uint64_t start, end;
};

// Callbacks of the resource domain: nodes of graphs.
enum { CUPTI_DOMAIN_RESOURCE = 3 };
enum { CUPTI_NODE_CREATED = 13, CUPTI_NODE_DESTROYED = 14, CUPTI_NODE_CLONED = 20 };

struct cupti_graph_data {
    void *graph, *original_graph, *node, *original_node;
    uint32_t node_type;
    void *dependency, *exec;
};
struct cupti_resource {
    void *context, *handle;
    const struct cupti_graph_data *data;
};

enum cupti_attribute {
    CUPTI_DEVICE_BUFFER_BYTES = 0,
    CUPTI_DEVICE_BUFFER_LIMIT = 2,
    CUPTI_ZEROED_BUFFERS = 5,     // uint8_t
    CUPTI_DEVICE_BUFFER_FIRST = 6,
};

enum { CUPTI_OLD_NAME_BYTES = 64, CUPTI_FLUSH_FORCED = 1 };
struct cupti_subscriber {
    size_t bytes;
    const char *name;
    char *old_name;
    size_t old_bytes;
};

// Functions of the runtime and the driver that enqueue work: their numbers in CUPTI.
struct cupti_function {
    uint32_t kind, id;            // CUPTI_RUNTIME or CUPTI_DRIVER
    const char *name;
};
extern const struct cupti_function cupti_functions[];    // until .name is NULL

typedef void (*cupti_callback)(void *user, uint32_t domain, uint32_t id, const void *data);
typedef void (*cupti_request)(uint8_t **buffer, size_t *bytes, size_t *max_records);
typedef void (*cupti_complete)(void *context, uint32_t stream, uint8_t *buffer, size_t bytes, size_t valid);

// The functions, as found. Old libraries lack those marked "or NULL".
struct cupti {
    int (*version)(uint32_t *version);
    int (*result_string)(int result, const char **text);
    int (*subscribe)(void **subscriber, cupti_callback callback, void *user);
    int (*subscribe_named)(void **subscriber, cupti_callback callback, void *user,
                           struct cupti_subscriber *);    // or NULL
    int (*unsubscribe)(void *subscriber);
    int (*enable_callback)(uint32_t enable, void *subscriber, uint32_t domain, uint32_t id);
    int (*enable)(uint32_t kind);
    int (*disable)(uint32_t kind);
    int (*enable_runtime)(uint32_t id, uint8_t enable);    // or NULL
    int (*enable_driver)(uint32_t id, uint8_t enable);     // or NULL
    int (*set_attribute)(uint32_t attribute, size_t *bytes, void *value);
    int (*register_timestamp)(uint64_t (*now)(void));
    int (*register_buffers)(cupti_request request, cupti_complete complete);
    int (*next_record)(uint8_t *buffer, size_t valid, void **record);
    int (*dropped)(void *context, uint32_t stream, size_t *dropped);
    int (*flush)(uint32_t flags);
    int (*push_external)(uint32_t kind, uint64_t id);
    int (*pop_external)(uint32_t kind, uint64_t *id);
    int (*node_id)(void *node, uint64_t *id);
};

// The library's functions, loaded at the first call and kept. NULL: status_text says what is missing. Not for two
// threads at once. *path (may be NULL): which file it is.
const struct cupti *cupti_library(const char **path);
