package main

// linkAndPower are the checks of sticks, network, power, trial, secrets, G to K.
var linkAndPower = []mutation{}
