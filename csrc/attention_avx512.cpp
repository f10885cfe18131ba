#include <immintrin.h>

#define OSTRO_WIDTH 16
#define OSTRO_VECTORS 4
#define OSTRO_KEYS 4
#define OSTRO_DIMS 4
#include "attention_body.h"

namespace ostro {
const AttentionKernels kAttentionAvx512 = {one_token, many_tokens, kRows};
}
