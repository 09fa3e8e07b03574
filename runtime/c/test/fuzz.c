/* fuzz.c - libFuzzer on the prompt reader: no crash, no leak, nothing slow; what it finds, Python judges. */
#include <edgept.h>

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct edgept_prompt_file *file = NULL;
    struct edgept_error error = {"", ""};
    enum edgept_status status = edgept_prompt_file_parse(data, size, 0, &file, &error);
    if ((status == EDGEPT_OK) != (file != NULL) || (status != EDGEPT_OK && error.reason[0] == '\0'))
        abort();
    edgept_prompt_file_free(file);
    return 0;
}
