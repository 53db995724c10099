{{/* Parts of every pod: (list $ values). */}}
{{- define "glm4v.podSpec" -}}
{{- $root := index . 0 -}}{{- $values := index . 1 -}}
serviceAccountName: {{ include "glm4v.serviceAccount" $root | quote }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- toYaml (mergeOverwrite (deepCopy $root.Values.podSecurityContext) (default dict $values.podSecurityContext)) | nindent 2 }}
{{- with $root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . | quote }}
  {{- end }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $values.runtimeClassName }}
runtimeClassName: {{ . | quote }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{/* (list $ component topologySpread). */}}
{{- define "glm4v.topologySpread" -}}
{{- $spread := index . 2 -}}
topologySpreadConstraints:
  - maxSkew: 1
    topologyKey: {{ $spread.topologyKey | quote }}
    whenUnsatisfiable: {{ $spread.whenUnsatisfiable }}
    labelSelector:
      matchLabels:
        {{- include "glm4v.selector" . | nindent 8 }}
{{- end -}}

{{- define "glm4v.podMetadata" -}}
{{- $root := index . 0 -}}{{- $values := index . 2 -}}
labels:
  {{- include "glm4v.labels" (list $root (index . 1)) | nindent 2 }}
  {{- with $values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- with $values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end -}}

{{- define "glm4v.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  privileged: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{/* Probes by gRPC on the health listener, whose status is NOT_SERVING until a process can serve: loading counts for the
     startup probe alone. Liveness takes a minute of silence: a process that waits for Redis or a device still answers. */}}
{{- define "glm4v.probes" -}}
startupProbe:
  grpc: {port: 8340}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: {{ div (add (int .startTimeoutSeconds) 4) 5 }}
livenessProbe:
  grpc: {port: 8340}
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 6
readinessProbe:
  grpc: {port: 8340}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 2
{{- end -}}

{{/* SIGTERM starts the drain; the kubelet waits for it, for the pause before it, and 5 s for the end of the process. */}}
{{- define "glm4v.grace" -}}
{{- add (ceil .drainTimeoutSeconds | int) (int (default 0 .preStopSeconds)) 5 -}}
{{- end -}}

{{- define "glm4v.volumes" -}}
{{- $root := index . 0 -}}{{- $values := index . 1 -}}
- name: tmp
  emptyDir: {}
{{- with $values.sharedMemory }}
- name: shared-memory
  emptyDir: {medium: Memory, sizeLimit: {{ . | quote }}}
{{- end }}
{{- include "glm4v.modelVolumes" $root }}
{{- if and (eq $root.Values.redis.mode "external") $root.Values.redis.external.caSecret }}
- name: redis-ca
  secret:
    secretName: {{ $root.Values.redis.external.caSecret | quote }}
    items: [{key: {{ $root.Values.redis.external.caKey | quote }}, path: ca.crt}]
{{- end }}
{{- with $values.volumes }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "glm4v.volumeMounts" -}}
{{- $root := index . 0 -}}{{- $values := index . 1 -}}
- name: tmp
  mountPath: /tmp
{{- with $values.sharedMemory }}
- name: shared-memory
  mountPath: /dev/shm
{{- end }}
{{- include "glm4v.modelMounts" $root }}
{{- if and (eq $root.Values.redis.mode "external") $root.Values.redis.external.caSecret }}
- name: redis-ca
  mountPath: /run/glm4v/redis-ca
  readOnly: true
{{- end }}
{{- with $values.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end -}}
