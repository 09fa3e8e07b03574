/* effect.h - whether a prompt reaches the model's output at all. */
#ifndef EDGEPT_EFFECT_H
#define EDGEPT_EFFECT_H

#include "prompt.h"

/* Run the first prompt of its kind on a bundle: one that is silently ignored is worse than none. */
enum edgept_status edgept_effect_check(struct edgept_bundle *bundle, const struct edgept_prompt *prompt,
                                       struct edgept_error *error);

#endif
