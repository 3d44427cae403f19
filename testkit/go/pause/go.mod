module stoker.io/testkit/pause

go 1.24
