package main

// rootsAndContent are the checks of roots, time, recipients and content, C to F.
var rootsAndContent = []mutation{}
