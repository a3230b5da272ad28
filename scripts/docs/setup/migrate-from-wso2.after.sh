# The stand-in writes down every call that is not of the contract.
! grep contract: apim.log
