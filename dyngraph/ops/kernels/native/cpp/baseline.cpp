// The kernels for any processor.

#include "library.h"

#define VARIANT baseline
#define VECTOR_BYTES 16
#include "sums.h"
