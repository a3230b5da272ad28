package main

// formAndSignatures are the checks of forms and signatures, A and B.
var formAndSignatures = []mutation{}
