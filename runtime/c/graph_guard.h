/* graph_guard.h - what a graph may refer to, checked before onnxruntime sees it. */
#ifndef EDGEPT_GRAPH_GUARD_H
#define EDGEPT_GRAPH_GUARD_H

#include "edgept.h"

/*
 * Check that a graph uses known operators only, and reads no other file than `weights`, a regular file
 * beside it. It does not check that the graph is a valid model; onnxruntime does.
 */
enum edgept_status edgept_graph_guard(const char *folder, const char *name, const char *weights,
                                      struct edgept_error *error);

#endif
