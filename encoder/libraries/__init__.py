"""Our encoder inside other libraries: transformers' models, openai-whisper's."""
