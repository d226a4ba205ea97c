module github.com/sallyport/sallyport/e2e/native

go 1.26.7
