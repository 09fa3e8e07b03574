/* graph.c - onnxruntime. */
#define _GNU_SOURCE /* sched_getaffinity */
#include "graph.h"

#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "error.h"

#define MOST_THREADS 64 /* far more than there are cores only wait for each other */

enum edgept_status edgept_graph_check(const OrtApi *api, OrtStatus *status, struct edgept_error *error)
{
    if (status == NULL)
        return EDGEPT_OK;
    edgept_fail(error, EDGEPT_FAILED, "", "onnxruntime: %s", api->GetErrorMessage(status));
    api->ReleaseStatus(status);
    return EDGEPT_FAILED;
}

/* ---- opening ---- */

/* Whether this onnxruntime has a provider; those that are not built in go by short names, "XNNPACK". */
static enum edgept_status check_provider(const OrtApi *api, const char *name, struct edgept_error *error)
{
    static const char ending[] = "ExecutionProvider";
    size_t length = strlen(name), end = sizeof ending - 1;
    char **available = NULL;
    int count = 0;
    bool is_there = length < end || strcmp(name + length - end, ending) != 0;
    enum edgept_status status = edgept_graph_check(api, api->GetAvailableProviders(&available, &count), error);
    if (status)
        return status;
    for (int i = 0; i < count; i++)
        is_there |= strcmp(available[i], name) == 0;
    edgept_graph_check(api, api->ReleaseAvailableProviders(available, count), NULL);
    if (is_there)
        return EDGEPT_OK;
    return edgept_fail(error, EDGEPT_USAGE, "",
                       "this onnxruntime has no %s. Install the build for this device, or choose other providers.",
                       name);
}

static enum edgept_status add_provider(const OrtApi *api, OrtSessionOptions *options,
                                       const struct edgept_provider *provider,
                                       struct edgept_error *error)
{
    enum edgept_status status = check_provider(api, provider->name, error);
    const char *const *keys = provider->keys, *const *values = provider->values;
    size_t count = provider->option_count;
    if (status)
        return status;
    if (strcmp(provider->name, "CUDAExecutionProvider") == 0) {
        OrtCUDAProviderOptionsV2 *cuda = NULL;
        status = edgept_graph_check(api, api->CreateCUDAProviderOptions(&cuda), error);
        if (status == EDGEPT_OK)
            status = edgept_graph_check(api, api->UpdateCUDAProviderOptions(cuda, keys, values, count), error);
        if (status == EDGEPT_OK)
            status = edgept_graph_check(
                api, api->SessionOptionsAppendExecutionProvider_CUDA_V2(options, cuda), error);
        api->ReleaseCUDAProviderOptions(cuda);
    } else if (strcmp(provider->name, "TensorrtExecutionProvider") == 0) {
        OrtTensorRTProviderOptionsV2 *tensorrt = NULL;
        status = edgept_graph_check(api, api->CreateTensorRTProviderOptions(&tensorrt), error);
        if (status == EDGEPT_OK)
            status = edgept_graph_check(
                api, api->UpdateTensorRTProviderOptions(tensorrt, keys, values, count), error);
        if (status == EDGEPT_OK)
            status = edgept_graph_check(
                api, api->SessionOptionsAppendExecutionProvider_TensorRT_V2(options, tensorrt), error);
        api->ReleaseTensorRTProviderOptions(tensorrt);
    } else {
        status = edgept_graph_check(
            api,
            api->SessionOptionsAppendExecutionProvider(options, provider->name, keys, values, count),
            error);
    }
    return status;
}

/* Cores that this process may use. */
static int count_cores(void)
{
    cpu_set_t cores;
    return sched_getaffinity(0, sizeof cores, &cores) == 0 ? CPU_COUNT(&cores) : 1;
}

static enum edgept_status configure(struct edgept_graph *graph, OrtSessionOptions *session,
                                    const struct edgept_bundle_options *options,
                                    struct edgept_error *error)
{
    const OrtApi *api = graph->api;
    int cores = count_cores(), threads = options->threads == 0 ? cores : options->threads;
    int most = cores > MOST_THREADS ? cores : MOST_THREADS;
    if (threads < 1 || threads > most)
        return edgept_fail(error, EDGEPT_USAGE, "",
                           "threads is %d, expected 1 to %d, or 0 for every core (%d here).", threads, most,
                           cores);
    enum edgept_status status = edgept_graph_check(api, api->SetIntraOpNumThreads(session, threads), error);
    if (status == EDGEPT_OK)
        status = edgept_graph_check(api, api->SetInterOpNumThreads(session, 1), error);
    if (status == EDGEPT_OK) /* fatal only; an error is returned, and needs no log line */
        status = edgept_graph_check(api, api->SetSessionLogSeverityLevel(session, 4), error);
    graph->on_host = true;
    for (size_t i = 0; status == EDGEPT_OK && i < options->provider_count; i++) {
        const char *name = options->providers[i].name;
        if (strcmp(name, "CPUExecutionProvider") == 0) /* is always there, as the last */
            break;
        graph->on_host = false;
        status = add_provider(api, session, &options->providers[i], error);
    }
    /* The first crashes before onnxruntime 1.30 on an input whose default is float16; what the others fuse is
     * slower on the CPU than apart. */
    if (status == EDGEPT_OK)
        status = edgept_graph_check(
            api,
            api->AddSessionConfigEntry(session, "optimization.disable_specified_optimizers",
                                       graph->on_host
                                           ? "FuseFp16InitializerToFp32NodeTransformer;SkipLayerNormFusion;BiasGeluFusion"
                                           : "FuseFp16InitializerToFp32NodeTransformer"),
            error);
    return status;
}

/* Find which output a request is for, how wide it is and of what type. */
static enum edgept_status find_output(struct edgept_graph *graph, size_t index, const char *name,
                                      struct edgept_error *error)
{
    static const char *const known[] = {"logits", "last_hidden_state"};
    const OrtApi *api = graph->api;
    OrtTypeInfo *type = NULL;
    const OrtTensorTypeAndShapeInfo *tensor = NULL;
    ONNXTensorElementDataType element = ONNX_TENSOR_ELEMENT_DATA_TYPE_UNDEFINED;
    int64_t shape[8] = {0};
    size_t rank = 0, which = 0;
    while (which < 2 && strcmp(name, known[which]) != 0)
        which++;
    if (which == 2)
        return EDGEPT_OK;
    enum edgept_status status =
        edgept_graph_check(api, api->SessionGetOutputTypeInfo(graph->session, index, &type), error);
    if (status == EDGEPT_OK)
        status = edgept_graph_check(api, api->CastTypeInfoToTensorInfo(type, &tensor), error);
    if (status == EDGEPT_OK && tensor != NULL)
        status = edgept_graph_check(api, api->GetTensorElementType(tensor, &element), error);
    if (status == EDGEPT_OK && tensor != NULL)
        status = edgept_graph_check(api, api->GetDimensionsCount(tensor, &rank), error);
    if (status == EDGEPT_OK && rank >= 2 && rank <= 8)
        status = edgept_graph_check(api, api->GetDimensions(tensor, shape, rank), error);
    if (type != NULL)
        api->ReleaseTypeInfo(type);
    if (status)
        return status;
    graph->output_name = known[which];
    graph->output_width = rank >= 2 && rank <= 8 && shape[rank - 1] > 0 ? (size_t)shape[rank - 1] : 0;
    graph->output_is_half = element == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16;
    if (!graph->output_is_half && element != ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT)
        return edgept_fail(error, EDGEPT_INVALID_FILE, "manifest-malformed",
                           "the graph gives %s in another type than float32 and float16. Export again.",
                           name);
    return EDGEPT_OK;
}

static enum edgept_status read_names(struct edgept_graph *graph, struct edgept_error *error)
{
    const OrtApi *api = graph->api;
    OrtAllocator *allocator = NULL;
    size_t inputs = 0, outputs = 0;
    char *name = NULL;
    enum edgept_status status = edgept_graph_check(api, api->GetAllocatorWithDefaultOptions(&allocator), error);
    if (status == EDGEPT_OK)
        status = edgept_graph_check(api, api->SessionGetInputCount(graph->session, &inputs), error);
    if (status == EDGEPT_OK)
        status = edgept_graph_check(api, api->SessionGetOutputCount(graph->session, &outputs), error);
    graph->input_count = inputs;
    for (size_t i = 0; status == EDGEPT_OK && i < inputs; i++) {
        status = edgept_graph_check(api, api->SessionGetInputName(graph->session, i, allocator, &name), error);
        if (status)
            break;
        graph->takes_types |= strcmp(name, "token_type_ids") == 0;
        status = edgept_graph_check(api, api->AllocatorFree(allocator, name), error);
    }
    for (size_t i = 0; status == EDGEPT_OK && i < outputs; i++) {
        status = edgept_graph_check(api, api->SessionGetOutputName(graph->session, i, allocator, &name), error);
        if (status)
            break;
        status = find_output(graph, i, name, error);
        edgept_graph_check(api, api->AllocatorFree(allocator, name), NULL);
    }
    return status;
}

enum edgept_status edgept_graph_open(struct edgept_graph *graph, const OrtApi *api, const OrtEnv *env,
                                     const OrtMemoryInfo *memory, const char *path,
                                     const struct edgept_bundle_options *options,
                                     struct edgept_error *error)
{
    OrtSessionOptions *session = NULL;
    graph->api = api;
    graph->memory = memory;
    enum edgept_status status = edgept_graph_check(api, api->CreateSessionOptions(&session), error);
    if (status)
        return status;
    status = configure(graph, session, options, error);
    if (status == EDGEPT_OK)
        status = edgept_graph_check(api, api->CreateSession(env, path, session, &graph->session), error);
    api->ReleaseSessionOptions(session);
    if (status == EDGEPT_OK)
        status = edgept_graph_check(api, api->CreateRunOptions(&graph->run_options), error);
    if (status == EDGEPT_OK)
        status = edgept_graph_check(api, api->RunOptionsSetRunLogSeverityLevel(graph->run_options, 4), error);
    if (status == EDGEPT_OK)
        status = read_names(graph, error);
    return status;
}

void edgept_graph_close(struct edgept_graph *graph)
{
    if (graph->run_options != NULL)
        graph->api->ReleaseRunOptions(graph->run_options);
    if (graph->session != NULL)
        graph->api->ReleaseSession(graph->session);
    graph->run_options = NULL;
    graph->session = NULL;
}

enum edgept_status edgept_graph_metadata(const struct edgept_graph *graph, const char *key, char **value,
                                         struct edgept_error *error)
{
    const OrtApi *api = graph->api;
    OrtModelMetadata *metadata = NULL;
    OrtAllocator *allocator = NULL;
    char *found = NULL, *copy = NULL;
    enum edgept_status status = edgept_graph_check(api, api->GetAllocatorWithDefaultOptions(&allocator), error);
    if (status == EDGEPT_OK)
        status = edgept_graph_check(api, api->SessionGetModelMetadata(graph->session, &metadata), error);
    if (status == EDGEPT_OK)
        status = edgept_graph_check(
            api, api->ModelMetadataLookupCustomMetadataMap(metadata, allocator, key, &found), error);
    if (metadata != NULL)
        api->ReleaseModelMetadata(metadata);
    if (status == EDGEPT_OK && found != NULL) {
        size_t size = strlen(found) + 1;
        copy = malloc(size);
        if (copy == NULL)
            status = edgept_no_memory(error, "a bundle's metadata");
        else
            memcpy(copy, found, size);
        edgept_graph_check(api, api->AllocatorFree(allocator, found), NULL);
    }
    if (status == EDGEPT_OK)
        *value = copy;
    return status;
}

/* ---- running ---- */

enum edgept_status edgept_tensors_add(struct edgept_tensors *tensors, const struct edgept_graph *graph,
                                      const char *name, void *data, enum edgept_type type,
                                      const int64_t *shape, size_t rank, struct edgept_error *error)
{
    static const struct {
        ONNXTensorElementDataType element;
        size_t bytes;
    } types[] = {{ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, 8},
                 {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 4},
                 {ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT16, 2}};
    size_t bytes = types[type].bytes;
    for (size_t i = 0; i < rank; i++)
        bytes *= (size_t)shape[i];
    OrtStatus *made = graph->api->CreateTensorWithDataAsOrtValue(
        graph->memory, data, bytes, shape, rank, types[type].element, &tensors->values[tensors->count]);
    enum edgept_status status = edgept_graph_check(graph->api, made, error);
    if (status == EDGEPT_OK)
        tensors->names[tensors->count++] = name;
    return status;
}

void edgept_tensors_cut(struct edgept_tensors *tensors, const struct edgept_graph *graph, size_t first)
{
    while (tensors->count > first)
        graph->api->ReleaseValue(tensors->values[--tensors->count]);
}

enum edgept_status edgept_graph_run(const struct edgept_graph *graph,
                                    const struct edgept_tensors *inputs, struct edgept_tensors *outputs,
                                    struct edgept_error *error)
{
    OrtStatus *ran = graph->api->Run(graph->session, graph->run_options, inputs->names,
                                     (const OrtValue *const *)inputs->values, inputs->count,
                                     outputs->names, outputs->count, outputs->values);
    return edgept_graph_check(graph->api, ran, error);
}
