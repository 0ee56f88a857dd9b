// cupti/cupti_api_check.c - our declarations against CUPTI's headers, where those exist. Compiles to nothing elsewhere.
#include "cupti/cupti_api.h"

#ifdef CLSA_CUPTI_HEADERS
#include <cupti.h>

#define SAME_OFFSET(ours, field, theirs, their_field)                                                                  \
    _Static_assert(offsetof(struct ours, field) == offsetof(theirs, their_field) &&                                    \
                       sizeof((struct ours){0}.field) == sizeof((theirs){0}.their_field),                              \
                   #ours "." #field)

SAME_OFFSET(cupti_kernel, kind, CUpti_ActivityKernel10, kind);
SAME_OFFSET(cupti_kernel, registers_per_thread, CUpti_ActivityKernel10, registersPerThread);
SAME_OFFSET(cupti_kernel, start, CUpti_ActivityKernel10, start);
SAME_OFFSET(cupti_kernel, end, CUpti_ActivityKernel10, end);
SAME_OFFSET(cupti_kernel, device, CUpti_ActivityKernel10, deviceId);
SAME_OFFSET(cupti_kernel, context, CUpti_ActivityKernel10, contextId);
SAME_OFFSET(cupti_kernel, stream, CUpti_ActivityKernel10, streamId);
SAME_OFFSET(cupti_kernel, grid[0], CUpti_ActivityKernel10, gridX);
SAME_OFFSET(cupti_kernel, grid[2], CUpti_ActivityKernel10, gridZ);
SAME_OFFSET(cupti_kernel, block[0], CUpti_ActivityKernel10, blockX);
SAME_OFFSET(cupti_kernel, block[2], CUpti_ActivityKernel10, blockZ);
SAME_OFFSET(cupti_kernel, static_shared, CUpti_ActivityKernel10, staticSharedMemory);
SAME_OFFSET(cupti_kernel, dynamic_shared, CUpti_ActivityKernel10, dynamicSharedMemory);
SAME_OFFSET(cupti_kernel, correlation, CUpti_ActivityKernel10, correlationId);
SAME_OFFSET(cupti_kernel, name, CUpti_ActivityKernel10, name);
SAME_OFFSET(cupti_kernel, node, CUpti_ActivityKernel10, graphNodeId);

SAME_OFFSET(cupti_memcpy, bytes, CUpti_ActivityMemcpy6, bytes);
SAME_OFFSET(cupti_memcpy, start, CUpti_ActivityMemcpy6, start);
SAME_OFFSET(cupti_memcpy, end, CUpti_ActivityMemcpy6, end);
SAME_OFFSET(cupti_memcpy, device, CUpti_ActivityMemcpy6, deviceId);
SAME_OFFSET(cupti_memcpy, context, CUpti_ActivityMemcpy6, contextId);
SAME_OFFSET(cupti_memcpy, stream, CUpti_ActivityMemcpy6, streamId);
SAME_OFFSET(cupti_memcpy, correlation, CUpti_ActivityMemcpy6, correlationId);
SAME_OFFSET(cupti_memcpy, node, CUpti_ActivityMemcpy6, graphNodeId);

SAME_OFFSET(cupti_memset, bytes, CUpti_ActivityMemset4, bytes);
SAME_OFFSET(cupti_memset, start, CUpti_ActivityMemset4, start);
SAME_OFFSET(cupti_memset, end, CUpti_ActivityMemset4, end);
SAME_OFFSET(cupti_memset, device, CUpti_ActivityMemset4, deviceId);
SAME_OFFSET(cupti_memset, context, CUpti_ActivityMemset4, contextId);
SAME_OFFSET(cupti_memset, stream, CUpti_ActivityMemset4, streamId);
SAME_OFFSET(cupti_memset, correlation, CUpti_ActivityMemset4, correlationId);
SAME_OFFSET(cupti_memset, node, CUpti_ActivityMemset4, graphNodeId);

SAME_OFFSET(cupti_graph, correlation, CUpti_ActivityGraphTrace2, correlationId);
SAME_OFFSET(cupti_graph, start, CUpti_ActivityGraphTrace2, start);
SAME_OFFSET(cupti_graph, end, CUpti_ActivityGraphTrace2, end);
SAME_OFFSET(cupti_graph, device, CUpti_ActivityGraphTrace2, deviceId);
SAME_OFFSET(cupti_graph, context, CUpti_ActivityGraphTrace2, contextId);
SAME_OFFSET(cupti_graph, stream, CUpti_ActivityGraphTrace2, streamId);

SAME_OFFSET(cupti_call, id, CUpti_ActivityAPI, cbid);
SAME_OFFSET(cupti_call, start, CUpti_ActivityAPI, start);
SAME_OFFSET(cupti_call, end, CUpti_ActivityAPI, end);
SAME_OFFSET(cupti_call, thread, CUpti_ActivityAPI, threadId);
SAME_OFFSET(cupti_call, correlation, CUpti_ActivityAPI, correlationId);

SAME_OFFSET(cupti_external, external_kind, CUpti_ActivityExternalCorrelation, externalKind);
SAME_OFFSET(cupti_external, id, CUpti_ActivityExternalCorrelation, externalId);
SAME_OFFSET(cupti_external, correlation, CUpti_ActivityExternalCorrelation, correlationId);

SAME_OFFSET(cupti_overhead, what, CUpti_ActivityOverhead3, overheadKind);
SAME_OFFSET(cupti_overhead, start, CUpti_ActivityOverhead3, start);
SAME_OFFSET(cupti_overhead, end, CUpti_ActivityOverhead3, end);

SAME_OFFSET(cupti_graph_data, node, CUpti_GraphData, node);
SAME_OFFSET(cupti_graph_data, original_node, CUpti_GraphData, originalNode);
SAME_OFFSET(cupti_graph_data, exec, CUpti_GraphData, graphExec);
SAME_OFFSET(cupti_resource, data, CUpti_ResourceData, resourceDescriptor);
SAME_OFFSET(cupti_subscriber, bytes, CUpti_SubscriberParams, structSize);
SAME_OFFSET(cupti_subscriber, name, CUpti_SubscriberParams, subscriberName);
SAME_OFFSET(cupti_subscriber, old_name, CUpti_SubscriberParams, oldSubscriberName);
SAME_OFFSET(cupti_subscriber, old_bytes, CUpti_SubscriberParams, oldSubscriberSize);
_Static_assert(sizeof(struct cupti_subscriber) == sizeof(CUpti_SubscriberParams), "parameters of a subscription");

#define SAME_NUMBER(ours, theirs) _Static_assert((int)(ours) == (int)(theirs), #theirs)

SAME_NUMBER(CUPTI_OK, CUPTI_SUCCESS);
SAME_NUMBER(CUPTI_NO_MORE, CUPTI_ERROR_MAX_LIMIT_REACHED);
SAME_NUMBER(CUPTI_NO_PRIVILEGE, CUPTI_ERROR_INSUFFICIENT_PRIVILEGES);
SAME_NUMBER(CUPTI_OTHER_SUBSCRIBER, CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED);
SAME_NUMBER(CUPTI_MEMCPY, CUPTI_ACTIVITY_KIND_MEMCPY);
SAME_NUMBER(CUPTI_MEMSET, CUPTI_ACTIVITY_KIND_MEMSET);
SAME_NUMBER(CUPTI_DRIVER, CUPTI_ACTIVITY_KIND_DRIVER);
SAME_NUMBER(CUPTI_RUNTIME, CUPTI_ACTIVITY_KIND_RUNTIME);
SAME_NUMBER(CUPTI_KERNEL, CUPTI_ACTIVITY_KIND_CONCURRENT_KERNEL);
SAME_NUMBER(CUPTI_OVERHEAD, CUPTI_ACTIVITY_KIND_OVERHEAD);
SAME_NUMBER(CUPTI_EXTERNAL, CUPTI_ACTIVITY_KIND_EXTERNAL_CORRELATION);
SAME_NUMBER(CUPTI_GRAPH, CUPTI_ACTIVITY_KIND_GRAPH_TRACE);
SAME_NUMBER(CUPTI_EXTERNAL_OURS, CUPTI_EXTERNAL_CORRELATION_KIND_CUSTOM0);
SAME_NUMBER(CUPTI_DOMAIN_RESOURCE, CUPTI_CB_DOMAIN_RESOURCE);
SAME_NUMBER(CUPTI_NODE_CREATED, CUPTI_CBID_RESOURCE_GRAPHNODE_CREATED);
SAME_NUMBER(CUPTI_NODE_DESTROYED, CUPTI_CBID_RESOURCE_GRAPHNODE_DESTROY_STARTING);
SAME_NUMBER(CUPTI_NODE_CLONED, CUPTI_CBID_RESOURCE_GRAPHNODE_CLONED);
SAME_NUMBER(CUPTI_DEVICE_BUFFER_BYTES, CUPTI_ACTIVITY_ATTR_DEVICE_BUFFER_SIZE);
SAME_NUMBER(CUPTI_DEVICE_BUFFER_LIMIT, CUPTI_ACTIVITY_ATTR_DEVICE_BUFFER_POOL_LIMIT);
SAME_NUMBER(CUPTI_ZEROED_BUFFERS, CUPTI_ACTIVITY_ATTR_ZEROED_OUT_ACTIVITY_BUFFER);
SAME_NUMBER(CUPTI_DEVICE_BUFFER_FIRST, CUPTI_ACTIVITY_ATTR_DEVICE_BUFFER_PRE_ALLOCATE_VALUE);
SAME_NUMBER(CUPTI_OLD_NAME_BYTES, CUPTI_OLD_SUBSCRIBER_NAME_MIN_LEN);
SAME_NUMBER(CUPTI_FLUSH_FORCED, CUPTI_ACTIVITY_FLAG_FLUSH_FORCED);

#include "cupti/cupti_functions.h"
#define FUNCTION(kind, number, name, cbid) SAME_NUMBER(number, cbid);
CUPTI_FUNCTIONS(FUNCTION)
#endif

// A translation unit holds at least one declaration.
extern int cupti_api_checked;
