/* sample.h - logits to the next token. */
#ifndef EDGEPT_SAMPLE_H
#define EDGEPT_SAMPLE_H

#include "session.h"

/* Judge what a caller chose; before anything is run. */
enum edgept_status edgept_sampler_check(const struct edgept_generate_options *options,
                                        struct edgept_error *error);

/* Begin a request whose text is `ids`; the options are checked, and borrowed until its end. */
enum edgept_status edgept_sampler_begin(struct edgept_session *session,
                                        const struct edgept_generate_options *options, const int64_t *ids,
                                        size_t count, struct edgept_error *error);

/* Choose from logits (vocabulary,), and remember the choice. */
enum edgept_status edgept_sampler_choose(struct edgept_session *session, const float *logits,
                                         int64_t *token, struct edgept_error *error);

#endif
