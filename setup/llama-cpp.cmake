# Compile llama.cpp without what ggprune never loads, in less than half the time. To be passed with
#   -DLLAVA_BUILD=OFF -DCMAKE_PROJECT_llama.cpp_INCLUDE=(this file)
# llama-cpp-python forces LLAMA_BUILD_COMMON into cmake's cache, so that no -D can turn it off; a
# variable of llama.cpp's own scope counts more than the cache.
set(LLAMA_BUILD_COMMON OFF)
