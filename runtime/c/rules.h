/* rules.h - what an encoder-decoder may generate next. */
#ifndef EDGEPT_RULES_H
#define EDGEPT_RULES_H

#include "session.h"

/*
 * Logits (vocabulary,) with what may not come next at minus infinity, in the sampler's scores.
 * answer: its `count` tokens so far, without the start token; longest: of the whole answer.
 */
const float *edgept_rules_apply(struct edgept_session *session, const float *logits,
                                const int64_t *answer, size_t count, size_t longest);

#endif
