// tests/test_counters_layout.c - our declarations of CUPTI's profiler interface, field by field, against NVIDIA's
// headers.
//
// Everything is checked while compiling; the program itself only says whether the headers were there. tests/mock/cxx
// holds an empty <string>, which one of them includes and C has not.
#include <stdio.h>

#if __has_include(<cupti_pmsampling.h>) && __has_include(<cupti_range_profiler.h>) && __has_include(<string>)
#include <cupti_pmsampling.h>
#include <cupti_profiler_host.h>
#include <cupti_profiler_target.h>
#include <cupti_range_profiler.h>
#include <cupti_target.h>

#include "cupti/counters_api.h"

#define SAME(ours, field, theirs, their_field) \
    _Static_assert(offsetof(struct ours, field) == offsetof(theirs, their_field), #ours "." #field); \
    _Static_assert(sizeof(((struct ours *)NULL)->field) == sizeof(((theirs *)NULL)->their_field), #ours "." #field);
#define SIZE(ours, last, theirs) \
    _Static_assert(COUNTERS_SIZE(struct ours, last) == theirs##_STRUCT_SIZE, #ours); \
    _Static_assert(sizeof(struct ours) == sizeof(theirs), #ours); \
    SAME(ours, size, theirs, structSize) SAME(ours, priv, theirs, pPriv)

SIZE(cupti_nothing, priv, CUpti_Profiler_Initialize_Params)
SIZE(cupti_chip_name, name, CUpti_Device_GetChipName_Params)
SAME(cupti_chip_name, device, CUpti_Device_GetChipName_Params, deviceIndex)

SIZE(cupti_host_open, host, CUpti_Profiler_Host_Initialize_Params)
SAME(cupti_host_open, kind, CUpti_Profiler_Host_Initialize_Params, profilerType)
SAME(cupti_host_open, chip, CUpti_Profiler_Host_Initialize_Params, pChipName)
SAME(cupti_host_open, availability, CUpti_Profiler_Host_Initialize_Params, pCounterAvailabilityImage)
SIZE(cupti_host_close, host, CUpti_Profiler_Host_Deinitialize_Params)
SIZE(cupti_host_metrics, n, CUpti_Profiler_Host_ConfigAddMetrics_Params)
SAME(cupti_host_metrics, names, CUpti_Profiler_Host_ConfigAddMetrics_Params, ppMetricNames)
SIZE(cupti_host_config_size, bytes, CUpti_Profiler_Host_GetConfigImageSize_Params)
SIZE(cupti_host_config, config, CUpti_Profiler_Host_GetConfigImage_Params)
SAME(cupti_host_config, bytes, CUpti_Profiler_Host_GetConfigImage_Params, configImageSize)
SIZE(cupti_host_passes, passes, CUpti_Profiler_Host_GetNumOfPasses_Params)
SAME(cupti_host_passes, config, CUpti_Profiler_Host_GetNumOfPasses_Params, pConfigImage)
SIZE(cupti_host_evaluate, values, CUpti_Profiler_Host_EvaluateToGpuValues_Params)
SAME(cupti_host_evaluate, image, CUpti_Profiler_Host_EvaluateToGpuValues_Params, pCounterDataImage)
SAME(cupti_host_evaluate, image_bytes, CUpti_Profiler_Host_EvaluateToGpuValues_Params, counterDataImageSize)
SAME(cupti_host_evaluate, index, CUpti_Profiler_Host_EvaluateToGpuValues_Params, rangeIndex)
SAME(cupti_host_evaluate, names, CUpti_Profiler_Host_EvaluateToGpuValues_Params, ppMetricNames)
SAME(cupti_host_evaluate, n, CUpti_Profiler_Host_EvaluateToGpuValues_Params, numMetrics)

SIZE(cupti_pm_availability, image, CUpti_PmSampling_GetCounterAvailability_Params)
SAME(cupti_pm_availability, device, CUpti_PmSampling_GetCounterAvailability_Params, deviceIndex)
SAME(cupti_pm_availability, bytes, CUpti_PmSampling_GetCounterAvailability_Params, counterAvailabilityImageSize)
SIZE(cupti_pm_enable, object, CUpti_PmSampling_Enable_Params)
SAME(cupti_pm_enable, device, CUpti_PmSampling_Enable_Params, deviceIndex)
SIZE(cupti_pm_object, object, CUpti_PmSampling_Disable_Params)
SIZE(cupti_pm_object, object, CUpti_PmSampling_Start_Params)
SIZE(cupti_pm_object, object, CUpti_PmSampling_Stop_Params)
SIZE(cupti_pm_config, append, CUpti_PmSampling_SetConfig_Params)
SAME(cupti_pm_config, config_bytes, CUpti_PmSampling_SetConfig_Params, configSize)
SAME(cupti_pm_config, config, CUpti_PmSampling_SetConfig_Params, pConfig)
SAME(cupti_pm_config, buffer_bytes, CUpti_PmSampling_SetConfig_Params, hardwareBufferSize)
SAME(cupti_pm_config, interval, CUpti_PmSampling_SetConfig_Params, samplingInterval)
SAME(cupti_pm_config, trigger, CUpti_PmSampling_SetConfig_Params, triggerMode)
SIZE(cupti_pm_image_size, bytes, CUpti_PmSampling_GetCounterDataSize_Params)
SAME(cupti_pm_image_size, names, CUpti_PmSampling_GetCounterDataSize_Params, pMetricNames)
SAME(cupti_pm_image_size, n, CUpti_PmSampling_GetCounterDataSize_Params, numMetrics)
SAME(cupti_pm_image_size, max_samples, CUpti_PmSampling_GetCounterDataSize_Params, maxSamples)
SIZE(cupti_image_init, image, CUpti_PmSampling_CounterDataImage_Initialize_Params)
SAME(cupti_image_init, bytes, CUpti_PmSampling_CounterDataImage_Initialize_Params, counterDataSize)
SIZE(cupti_pm_decode, overflow, CUpti_PmSampling_DecodeData_Params)
SAME(cupti_pm_decode, image, CUpti_PmSampling_DecodeData_Params, pCounterDataImage)
SAME(cupti_pm_decode, image_bytes, CUpti_PmSampling_DecodeData_Params, counterDataImageSize)
SAME(cupti_pm_decode, stop_reason, CUpti_PmSampling_DecodeData_Params, decodeStopReason)
SIZE(cupti_pm_info, completed, CUpti_PmSampling_GetCounterDataInfo_Params)
SAME(cupti_pm_info, image_bytes, CUpti_PmSampling_GetCounterDataInfo_Params, counterDataImageSize)
SIZE(cupti_pm_sample, end, CUpti_PmSampling_CounterData_GetSampleInfo_Params)
SAME(cupti_pm_sample, image, CUpti_PmSampling_CounterData_GetSampleInfo_Params, pCounterDataImage)
SAME(cupti_pm_sample, index, CUpti_PmSampling_CounterData_GetSampleInfo_Params, sampleIndex)
SAME(cupti_pm_sample, begin, CUpti_PmSampling_CounterData_GetSampleInfo_Params, startTimestamp)

SIZE(cupti_range_availability, image, CUpti_Profiler_GetCounterAvailability_Params)
SAME(cupti_range_availability, bytes, CUpti_Profiler_GetCounterAvailability_Params, counterAvailabilityImageSize)
SIZE(cupti_range_enable, object, CUpti_RangeProfiler_Enable_Params)
SAME(cupti_range_enable, context, CUpti_RangeProfiler_Enable_Params, ctx)
SIZE(cupti_range_object, object, CUpti_RangeProfiler_Disable_Params)
SIZE(cupti_range_object, object, CUpti_RangeProfiler_Start_Params)
SIZE(cupti_range_object, object, CUpti_RangeProfiler_PopRange_Params)
SIZE(cupti_range_config, target_level, CUpti_RangeProfiler_SetConfig_Params)
SAME(cupti_range_config, config_bytes, CUpti_RangeProfiler_SetConfig_Params, configSize)
SAME(cupti_range_config, config, CUpti_RangeProfiler_SetConfig_Params, pConfig)
SAME(cupti_range_config, image_bytes, CUpti_RangeProfiler_SetConfig_Params, counterDataImageSize)
SAME(cupti_range_config, image, CUpti_RangeProfiler_SetConfig_Params, pCounterDataImage)
SAME(cupti_range_config, range, CUpti_RangeProfiler_SetConfig_Params, range)
SAME(cupti_range_config, replay, CUpti_RangeProfiler_SetConfig_Params, replayMode)
SAME(cupti_range_config, max_ranges, CUpti_RangeProfiler_SetConfig_Params, maxRangesPerPass)
SAME(cupti_range_config, n_levels, CUpti_RangeProfiler_SetConfig_Params, numNestingLevels)
SAME(cupti_range_config, min_level, CUpti_RangeProfiler_SetConfig_Params, minNestingLevel)
SAME(cupti_range_config, pass, CUpti_RangeProfiler_SetConfig_Params, passIndex)
SIZE(cupti_range_stop, all_submitted, CUpti_RangeProfiler_Stop_Params)
SAME(cupti_range_stop, pass, CUpti_RangeProfiler_Stop_Params, passIndex)
SIZE(cupti_range_push, name, CUpti_RangeProfiler_PushRange_Params)
SIZE(cupti_range_decode, dropped, CUpti_RangeProfiler_DecodeData_Params)
SIZE(cupti_range_image_size, bytes, CUpti_RangeProfiler_GetCounterDataSize_Params)
SAME(cupti_range_image_size, max_ranges, CUpti_RangeProfiler_GetCounterDataSize_Params, maxNumOfRanges)
SAME(cupti_range_image_size, max_nodes, CUpti_RangeProfiler_GetCounterDataSize_Params, maxNumRangeTreeNodes)
SIZE(cupti_image_init, image, CUpti_RangeProfiler_CounterDataImage_Initialize_Params)
SIZE(cupti_range_info, n, CUpti_RangeProfiler_GetCounterDataInfo_Params)
SAME(cupti_range_info, image_bytes, CUpti_RangeProfiler_GetCounterDataInfo_Params, counterDataImageSize)
SIZE(cupti_range_name, name, CUpti_RangeProfiler_CounterData_GetRangeInfo_Params)
SAME(cupti_range_name, index, CUpti_RangeProfiler_CounterData_GetRangeInfo_Params, rangeIndex)
SAME(cupti_range_name, delimiter, CUpti_RangeProfiler_CounterData_GetRangeInfo_Params, rangeDelimiter)

#define VALUE(ours, theirs) _Static_assert((int)ours == (int)theirs, #ours);
VALUE(COUNTERS_RANGE_PROFILER, CUPTI_PROFILER_TYPE_RANGE_PROFILER)
VALUE(COUNTERS_PM_SAMPLING, CUPTI_PROFILER_TYPE_PM_SAMPLING)
VALUE(COUNTERS_USER_RANGE, CUPTI_UserRange)
VALUE(COUNTERS_USER_REPLAY, CUPTI_UserReplay)
VALUE(COUNTERS_TIME_INTERVAL, CUPTI_PM_SAMPLING_TRIGGER_MODE_GPU_TIME_INTERVAL)
VALUE(COUNTERS_KEEP_OLDEST, CUPTI_PM_SAMPLING_HARDWARE_BUFFER_APPEND_MODE_KEEP_OLDEST)
VALUE(COUNTERS_IMAGE_FULL, CUPTI_PM_SAMPLING_DECODE_STOP_REASON_COUNTER_DATA_FULL)
VALUE(COUNTERS_BUFFER_FULL, CUPTI_ERROR_OUT_OF_MEMORY)
VALUE(COUNTERS_BAD_METRIC, CUPTI_ERROR_INVALID_METRIC_NAME)
VALUE(COUNTERS_BUSY, CUPTI_ERROR_HARDWARE_BUSY)
VALUE(COUNTERS_NOT_SUPPORTED, CUPTI_ERROR_NOT_SUPPORTED)
VALUE(COUNTERS_VIRTUALIZED, CUPTI_ERROR_VIRTUALIZED_DEVICE_NOT_SUPPORTED)
VALUE(COUNTERS_PRIVILEGES, CUPTI_ERROR_INSUFFICIENT_PRIVILEGES)
VALUE(COUNTERS_OTHER_TOOL, CUPTI_ERROR_MULTIPLE_SUBSCRIBERS_NOT_SUPPORTED)
VALUE(COUNTERS_VIRTUALIZED_PRIVILEGES, CUPTI_ERROR_VIRTUALIZED_DEVICE_INSUFFICIENT_PRIVILEGES)
VALUE(COUNTERS_CONFIDENTIAL, CUPTI_ERROR_CONFIDENTIAL_COMPUTING_NOT_SUPPORTED)
VALUE(COUNTERS_MINING, CUPTI_ERROR_CMP_DEVICE_NOT_SUPPORTED)
VALUE(COUNTERS_MIG, CUPTI_ERROR_MIG_DEVICE_NOT_SUPPORTED)
VALUE(COUNTERS_SLI, CUPTI_ERROR_SLI_DEVICE_NOT_SUPPORTED)
VALUE(COUNTERS_WSL, CUPTI_ERROR_WSL_DEVICE_NOT_SUPPORTED)

int main(void)
{
    printf("as in NVIDIA's headers\n");
    return 0;
}
#else
int main(void)
{
    printf("skipped: CUPTI's headers are not here\n");
    return 77;
}
#endif
