// The foreign mTLS peer of the tests: nothing but Go's own library.
module postern/foreign

go 1.19
