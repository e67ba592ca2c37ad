"""Is a kernel right? Its cases, the verdict, and the name of its mistake."""
