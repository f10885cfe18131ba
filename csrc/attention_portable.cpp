#define OSTRO_WIDTH 4
#define OSTRO_VECTORS 4
#define OSTRO_KEYS 2
#define OSTRO_DIMS 2
#include "attention_body.h"

namespace ostro {
const AttentionKernels kAttentionPortable = {one_token, many_tokens, kRows};
}
