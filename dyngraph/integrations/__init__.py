"""Our operators in models of other libraries, one module for each library."""
