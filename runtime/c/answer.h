/* answer.h - the text of a generation: its pieces, and the stop strings that end it. */
#ifndef EDGEPT_ANSWER_H
#define EDGEPT_ANSWER_H

#include "session.h"

/* Check what the options want of the text, and begin an empty one. */
enum edgept_status edgept_answer_begin(struct edgept_session *session,
                                       const struct edgept_generate_options *options,
                                       struct edgept_error *error);

/* Take the next token; *stops gets true where a stop string is complete, or on_text says so. */
enum edgept_status edgept_answer_add(struct edgept_session *session, int64_t token, bool *stops,
                                     struct edgept_error *error);

/* The end: what was held back is text. *stops gets true where a stop string is found in it. */
enum edgept_status edgept_answer_finish(struct edgept_session *session, bool *stops,
                                        struct edgept_error *error);

/* The text; NULL without a tokenizer. */
const char *edgept_answer_text(const struct edgept_session *session);

#endif
