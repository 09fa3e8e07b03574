/* text.h - a bundle's tokenizer, and what a session needs to use it. */
#ifndef EDGEPT_TEXT_H
#define EDGEPT_TEXT_H

#include "session.h"

/* Read a bundle's table, whole. */
enum edgept_status edgept_text_open(struct edgept_bundle *bundle, const char *folder, const char *name,
                                    struct edgept_error *error);

/* What a status of the tokenizer is outside of it. */
enum edgept_status edgept_text_check(enum edgept_text_status status, struct edgept_error *error);

/* Make a session's workspace and stream; both are NULL or for their _free functions on failure, too. */
enum edgept_status edgept_text_begin(struct edgept_session *session, struct edgept_error *error);

#endif
