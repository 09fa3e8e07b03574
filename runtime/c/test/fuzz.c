/* fuzz.c - libFuzzer on the prompt reader: no crash, no leak, nothing slow; what it finds, Python judges. */
#include <edgept.h>

#include <stdlib.h>

#define LENGTH 8 /* bytes of the header's length, which a file begins with */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed);

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

/* Of nine in ten, the length is that of the header as it has become: else few would get past it. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed)
{
    size = LLVMFuzzerMutate(data, size, max_size);
    size_t end = size;
    while (end > LENGTH && data[end - 1] != '}')
        end--;
    for (size_t i = 0; end > LENGTH && seed % 10 != 0 && i < LENGTH; i++)
        data[i] = (uint8_t)((uint64_t)(end - LENGTH) >> 8 * i);
    return size;
}
