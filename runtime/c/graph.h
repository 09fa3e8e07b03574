/* graph.h - an exported graph in an onnxruntime session, run with every tensor in a buffer of ours. */
#ifndef EDGEPT_GRAPH_H
#define EDGEPT_GRAPH_H

#include <onnxruntime_c_api.h>
#include <stdbool.h>

#include "edgept.h"

/* Threads may run one graph at once: onnxruntime's Run keeps no state. */
struct edgept_graph {
    const OrtApi *api;
    OrtSession *session;
    OrtRunOptions *run_options;
    const OrtMemoryInfo *memory; /* of this process; the bundle's */
    bool on_host;                /* whether the graph itself runs there, too */
    size_t input_count;          /* those with a default are not among them */
    bool takes_types;            /* token_type_ids are among the inputs */
    const char *output_name;     /* "logits" or "last_hidden_state"; of other graphs, NULL */
    size_t output_width;         /* at a position, or for a text; 0 where a prompt's head decides it */
    bool output_is_half;         /* float16 */
};

/* A status of onnxruntime's as one of ours, and released; NULL is success. */
enum edgept_status edgept_graph_check(const OrtApi *api, OrtStatus *status, struct edgept_error *error);

/* Load a graph that was checked. env and memory are borrowed. */
enum edgept_status edgept_graph_open(struct edgept_graph *graph, const OrtApi *api, const OrtEnv *env,
                                     const OrtMemoryInfo *memory, const char *path,
                                     const struct edgept_bundle_options *options,
                                     struct edgept_error *error);

void edgept_graph_close(struct edgept_graph *graph);

/* A metadata entry of the graph: a copy for free(), or NULL in *value where it is absent. */
enum edgept_status edgept_graph_metadata(const struct edgept_graph *graph, const char *key, char **value,
                                         struct edgept_error *error);

/* What a run takes or gives: names and tensors, up to a number that is known when it is made. */
struct edgept_tensors {
    const char **names;
    OrtValue **values;
    size_t count, room;
};

/* A tensor's element type. */
enum edgept_type { EDGEPT_INT64, EDGEPT_FLOAT, EDGEPT_HALF };

/* Add a tensor over the caller's memory, which outlives it. The name is borrowed. */
enum edgept_status edgept_tensors_add(struct edgept_tensors *tensors, const struct edgept_graph *graph,
                                      const char *name, void *data, enum edgept_type type,
                                      const int64_t *shape, size_t rank, struct edgept_error *error);

/* Drop those from `first` on. */
void edgept_tensors_cut(struct edgept_tensors *tensors, const struct edgept_graph *graph, size_t first);

/* Run once; outputs are written where they are. */
enum edgept_status edgept_graph_run(const struct edgept_graph *graph,
                                    const struct edgept_tensors *inputs, struct edgept_tensors *outputs,
                                    struct edgept_error *error);

#endif
