/* prompt.h - a prompt that is resident on one bundle. */
#ifndef EDGEPT_PROMPT_H
#define EDGEPT_PROMPT_H

#include "bundle.h"
#include "prompt_file.h"

/* As prompt files name them, by enum edgept_image_task. */
extern const char *const edgept_image_task_names[EDGEPT_IMAGE_FEATURES];

/* Never changes after it is made. Values are in the graph's float type. */
struct edgept_prompt {
    const struct edgept_bundle *bundle;
    unsigned long long number; /* from 1 on, of this prompt alone */
    char *name;
    size_t virtual_tokens;
    size_t tables; /* of rows: 1, or of an image model one a layer */
    void *rows; /* (tables, virtual_tokens, hidden); NULL for keys and values alone, or a head alone */
    void *kv;   /* (2 * layers, kv_heads, virtual_tokens, head_dim); NULL where rows run with each request */
    void *head[EDGEPT_TENSOR_NAMES]; /* what the graph takes, by name; no weight: no head */
    size_t classes;
    enum edgept_image_task image_task; /* of an image model's */
    struct edgept_labels labels; /* of the head */
    size_t bytes;
    double load_ms;
};

/* Whether a file with so many virtual tokens belongs to a bundle. */
enum edgept_status edgept_prompt_check_fits(const struct edgept_bundle *bundle, const struct edgept_prompt_file *file,
                                            size_t virtual_tokens, struct edgept_error *error);

/* What an image model's prompt is for; EDGEPT_IMAGE_FEATURES: nothing that this bundle does. */
enum edgept_image_task edgept_prompt_image_task(const struct edgept_facts *facts,
                                                const struct edgept_prompt_file *file);

#endif
